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
    error = scores.error
    columns: dict[str, Any] = {"value": scores.values, "removal": scores.removal}
    if error is not None:
        columns["error"] = error
    examples = scores.train_ids.cpu().numpy()
    schema = None
    with replacing(Path(path)) as partial:
        writer = None
        for row, test_id in enumerate(scores.test_ids.tolist()):
            own = {name: arrow.array(value[row].detach().cpu().numpy()) for name, value in columns.items()}
            ids = {"test_id": arrow.array([test_id] * len(examples), arrow.int64()), "train_id": arrow.array(examples)}
            table = arrow.table({**ids, **own})
            if writer is None:
                schema = table.schema.with_metadata({NOTES: scores.notes()})
                writer = parquet.ParquetWriter(partial, schema)
            writer.write_table(table.cast(schema))
        if writer is not None:
            writer.close()


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("Parquet needs pyarrow; pip install 'bayes-influence[parquet]', or save(path)") from error
    return pyarrow, pyarrow.parquet
