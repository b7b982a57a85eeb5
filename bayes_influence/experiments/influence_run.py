"""Which training examples shaped a run's predictions: scores of a finished training run, as a table and as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from rich.table import Table
from torch import Tensor

from bayes_influence.data.dataset import Dataset
from bayes_influence.data.images import IMAGE_SETS
from bayes_influence.experiments.figures import save_figure
from bayes_influence.experiments.store import StudyFolder
from bayes_influence.experiments.train_run import load_run
from bayes_influence.influence.influence import Influence
from bayes_influence.influence.scores import InfluenceScores

KINDS = ("helpful", "harmful")
"""The two ends of a ranking by removal effect: most positive, most negative."""

PICTURED = 8
"""Training images that a picture shows of each kind, at most."""

SCORES = "scores.safetensors"


@dataclass(frozen=True, eq=False)
class RunInfluence:
    """Influence of a run's training examples on the loss of some of its test examples.

    Attributes:
        folder: Where everything is stored.
        scores: All pairs.
        ranking: One row per test example, kind and rank: test_id, test_class, kind, rank, train_id, train_class,
            removal.
    """

    folder: Path
    scores: InfluenceScores
    ranking: pd.DataFrame


def influence_of_run(
    run: str | Path,
    out: str | Path,
    tests: Sequence[int],
    *,
    top: int = 10,
    index: int = 0,
    data_folder: str | Path | None = None,
    progress: bool = True,
    **settings: Any,
) -> RunInfluence:
    """Scores every training example of a finished run on the loss of some test examples.

    Writes the scores (`scores.safetensors`, streamed: a killed run resumes), the ranking (`influence.csv`, and
    `influence.parquet` where pyarrow is installed), `config.json`, and for images one picture per test example.

    Args:
        run: Folder of a finished training run.
        out: The result folder; created, or continued if it holds the same request.
        tests: Test examples by id; of image sets also by position in the test file.
        top: How many training examples are ranked, of each kind.
        index: Which of the run's seeds.
        data_folder: Where image sets are kept.
        progress: Whether to show progress bars.
        **settings: Of `Influence`: `curvature`, `solver`, `damping`, `parameters`.

    Raises:
        FileNotFoundError: If the folder holds no run.
        ValueError: If the run is not finished, a test example is unknown, `top` is out of range, or as `Influence`.
    """
    objective, split, config = load_run(run, index=index, data_folder=data_folder)
    chosen = split.test.at(_test_ids(split.test, tests, config["dataset"]))
    if not 1 <= top <= len(split.train):
        raise ValueError(f"top must lie in 1..{len(split.train)}, got {top}")
    identity = {"study": "influence", "run": config, "index": index, "tests": chosen.ids.tolist()}
    folder = StudyFolder(out, {**identity, **{name: str(value) for name, value in settings.items()}})
    influence = Influence(objective, split.train, progress=progress, **settings)
    scores = influence.on_loss(chosen, path=folder.path / SCORES)
    ranking = _ranking(scores, split.train, chosen, top)
    folder.write_table("influence", ranking)
    if find_spec("pyarrow"):
        ranking.to_parquet(folder.path / "influence.parquet", index=False)
    if isinstance(chosen.inputs, Tensor) and chosen.inputs.ndim == 4:
        for test_id, rows in ranking.groupby("test_id", sort=False):
            save_figure(influence_figure(rows, split.train, chosen), folder, f"test-{test_id}")
    return RunInfluence(folder.path, scores, ranking)


def _test_ids(test: Dataset, tests: Sequence[int], dataset: str) -> list[int]:
    known = set(test.ids.tolist())
    by_position = dataset in IMAGE_SETS
    wanted = []
    for number in tests:
        if number not in known and by_position and 0 <= number < len(test):
            number = int(test.ids[number])
        if number not in known:
            raise ValueError(
                f"{dataset}: no test example has id {number}; the {len(test)} test examples have ids from "
                f"{min(known)} to {max(known)}, for instance {sorted(known)[:5]}"
            )
        wanted.append(number)
    return wanted


def _ranking(scores: InfluenceScores, train: Dataset, tests: Dataset, top: int) -> pd.DataFrame:
    rows = []
    for row, test_id in enumerate(scores.test_ids.tolist()):
        for kind in KINDS:
            ids = scores.top(top, test_id, by=kind)  # type: ignore[arg-type]
            positions = train.positions(ids)
            frame = pd.DataFrame({"train_id": ids.tolist(), "removal": scores.removal[row, positions].tolist()})
            frame.insert(1, "train_class", [_class_name(train, position) for position in positions.tolist()])
            frame.insert(0, "rank", range(1, len(frame) + 1))
            frame.insert(0, "kind", kind)
            frame.insert(0, "test_class", _class_name(tests, row))
            frame.insert(0, "test_id", test_id)
            rows.append(frame)
    return pd.concat(rows, ignore_index=True)


def _class_name(data: Dataset, position: int) -> str:
    target = data.targets[position]
    if target.is_floating_point():
        return f"{float(target.reshape(-1)[0]):.4g}"
    return data.class_names[int(target)] if data.class_names else str(int(target))


def influence_figure(ranking: pd.DataFrame, train: Dataset, tests: Dataset) -> Figure:
    """A test image with its most helpful training images (above) and its most harmful ones (below)."""
    test_id = int(ranking["test_id"].iloc[0])
    shown = min(PICTURED, int(ranking["rank"].max()))
    with mpl.rc_context({"font.size": 8}):
        figure = Figure(figsize=(1.25 * (shown + 1.4), 3.1), layout="constrained")
        grid = figure.add_gridspec(2, shown + 1, width_ratios=[1.6, *[1] * shown])
        axes = figure.add_subplot(grid[:, 0])
        axes.imshow(_picture(tests.at(test_id).inputs[0]), cmap="gray")
        axes.set_title(f"test {test_id}: {ranking['test_class'].iloc[0]}")
        axes.set_axis_off()
        for line, kind in enumerate(KINDS):
            for column, row in enumerate(ranking[ranking["kind"] == kind].head(shown).itertuples()):
                axes = figure.add_subplot(grid[line, column + 1])
                axes.imshow(_picture(train.at(int(row.train_id)).inputs[0]), cmap="gray")  # type: ignore[arg-type]
                axes.set_title(f"{row.train_class}, {row.removal:+.1e}", fontsize=6)
                axes.set_xticks([])
                axes.set_yticks([])
                if column == 0:
                    axes.set_ylabel(kind)
        return figure


def _picture(image: Tensor) -> np.ndarray:
    """(C, H, W) as imshow takes it, its values stretched to 0..1."""
    stretched = (image - image.min()) / (image.max() - image.min()).clamp(min=torch.finfo(image.dtype).tiny)
    channels_last = stretched.movedim(0, -1).cpu().numpy()
    return channels_last[..., 0] if channels_last.shape[-1] == 1 else channels_last


def printed_ranking(ranking: pd.DataFrame) -> Table:
    """The ranking as it is printed."""
    table = Table(caption="removal: predicted change of the test loss when the example is left out; positive: it helps")
    for heading in ("test", "class", "kind", "rank", "training example", "its class", "removal"):
        table.add_column(heading, justify="right" if heading in ("rank", "removal", "training example") else "left")
    for row in ranking.itertuples():
        cells = (row.test_id, row.test_class, row.kind, row.rank, row.train_id, row.train_class, f"{row.removal:+.3e}")
        table.add_row(*map(str, cells), end_section=row.rank == ranking["rank"].max())
    return table
