"""Scores as a Parquet table, for whatever else reads tables: one row per pair, a row group per test example."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayes_influence.data.files import replacing

if TYPE_CHECKING:
    from bayes_influence.influence.scores import InfluenceScores

NOTES = "bayes_influence"
"""Under which the file's metadata hold what the scores are: measurement, curvature, damping, solver, as JSON."""


def write_parquet(scores: InfluenceScores, path: str | Path) -> None:
    """See `InfluenceScores.to_parquet`."""
    arrow, parquet = _pyarrow()
    tensors = {"value": scores.values, "removal": scores.removal, "error": scores.error}
    columns = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items() if tensor is not None}
    examples = scores.train_ids.cpu().numpy()
    kinds = {"test_id": arrow.int64(), "train_id": arrow.int64()}
    kinds |= {name: arrow.from_numpy_dtype(column.dtype) for name, column in columns.items()}
    schema = arrow.schema(list(kinds.items()), metadata={NOTES: scores.notes()})
    with replacing(Path(path)) as partial, parquet.ParquetWriter(partial, schema) as writer:
        for row, test_id in enumerate(scores.test_ids.tolist()):
            ids = {"test_id": [test_id] * len(examples), "train_id": examples}
            writer.write_table(arrow.table({**ids, **{name: column[row] for name, column in columns.items()}}, schema))


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("Parquet needs pyarrow; pip install 'bayes-influence[parquet]', or save(path)") from error
    return pyarrow, pyarrow.parquet
