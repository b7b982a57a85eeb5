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
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table
from torch import Tensor

from bayes_influence.data.catalogue import picture
from bayes_influence.data.dataset import Dataset
from bayes_influence.experiments.comparison.figures import save_figure
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.training.run import load_run
from bayes_influence.influence.influence import Influence
from bayes_influence.influence.scores import InfluenceScores
from bayes_influence.moments.moments import Moments
from bayes_influence.objectives.objective import Objective

KINDS = {"helpful": "tab:green", "harmful": "tab:red"}
"""The two ends of a ranking by removal effect, most positive and most negative, and their colours."""

PICTURED = 8
"""Training images that a picture shows of each kind, at most."""

SCORES = "scores.safetensors"


@dataclass(frozen=True, eq=False)
class RunInfluence:
    """Influence of a run's training examples on the loss of some of its test examples.

    Attributes:
        folder: Where everything is stored.
        scores: All pairs.
        ranking: One row per test example, kind and rank: test (its position in the test part), test_id, test_class,
            predicted_class, test_loss, kind, rank, train_id, train_class, removal.
    """

    folder: Path
    scores: InfluenceScores
    ranking: pd.DataFrame


def influence_of_run(
    run: str | Path,
    out: str | Path,
    tests: Sequence[int] = (),
    *,
    test_ids: Sequence[int] = (),
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
        tests: Test examples by position in the run's test part, from 0.
        test_ids: Further test examples, by id.
        top: How many training examples are ranked, of each kind.
        index: Which of the run's seeds.
        data_folder: Where image sets are kept.
        progress: Whether to show progress bars.
        **settings: Of `Influence`: `curvature`, `solver`, `damping`, `parameters`.

    Raises:
        FileNotFoundError: If the folder holds no run.
        ValueError: If the run is not finished, no test example is named or one is unknown, `top` is out of range, or as
            `Influence`.
    """
    objective, split, config = load_run(run, index=index, data_folder=data_folder)
    chosen = split.test.select(_positions(split.test, tests, test_ids))
    if not 1 <= top <= len(split.train):
        raise ValueError(f"top must lie in 1..{len(split.train)}, got {top}")
    identity = {"study": "influence", "run": config, "index": index, "tests": chosen.ids.tolist()}
    folder = StudyFolder(out, {**identity, **{name: str(value) for name, value in settings.items()}})
    influence = Influence(objective, split.train, progress=progress, **settings)
    scores = influence.on_loss(chosen, path=folder.path / SCORES)
    described = _described(objective, chosen, split.test.positions(chosen.ids))
    ranking = pd.concat([_ranking(scores, split.train, row, top) for row in described], ignore_index=True)
    folder.write_table("influence", ranking)
    if find_spec("pyarrow"):
        ranking.to_parquet(folder.path / "influence.parquet", index=False)
    if picture(split.train, int(split.train.ids[0])) is not None:
        for test, rows in ranking.groupby("test", sort=False):
            save_figure(influence_figure(rows, split.train, chosen), folder, f"test-{test}")
    return RunInfluence(folder.path, scores, ranking)


def _positions(test: Dataset, tests: Sequence[int], test_ids: Sequence[int]) -> list[int]:
    unknown = [number for number in tests if not 0 <= number < len(test)]
    if unknown:
        raise ValueError(
            f"{test.name}: no test example {unknown[0]}; the {len(test)} test examples are numbered from 0 to "
            f"{len(test) - 1}; name an id, from {int(test.ids.min())} to {int(test.ids.max())}, as such"
        )
    found = dict.fromkeys([*tests, *test.positions(test_ids).tolist()])
    if not found:
        raise ValueError("influence needs at least one test example, by position or by id")
    return list(found)


def _described(objective: Objective, tests: Dataset, positions: Tensor) -> list[dict[str, Any]]:
    """What a ranking says about each test example."""
    params = objective.params
    data = tests.to(dtype=next(iter(params.values())).dtype)
    with torch.no_grad():
        losses, outputs = objective.losses(params, data.batch()), objective.outputs(params, data.inputs)
    predicted = (outputs.expectation if isinstance(outputs, Moments) else outputs).argmax(dim=-1)
    return [
        {
            "test": int(positions[row]),
            "test_id": int(tests.ids[row]),
            "test_class": _class_name(tests, int(tests.targets[row])),
            "predicted_class": _class_name(tests, int(predicted[row])),
            "test_loss": float(losses[row]),
        }
        for row in range(len(tests))
    ]


def _ranking(scores: InfluenceScores, train: Dataset, test: dict[str, Any], top: int) -> pd.DataFrame:
    removal = scores.removal[scores.test_ids.tolist().index(test["test_id"])]
    frames = []
    for kind in KINDS:
        ids = scores.top(top, test["test_id"], by=kind)  # type: ignore[arg-type]
        positions = train.positions(ids)
        columns = {
            "kind": kind,
            "rank": range(1, top + 1),
            "train_id": ids.tolist(),
            "train_class": [_class_name(train, target) for target in train.targets[positions].tolist()],
            "removal": removal[positions].tolist(),
        }
        frames.append(pd.DataFrame({**{name: [value] * top for name, value in test.items()}, **columns}))
    return pd.concat(frames, ignore_index=True)


def _class_name(data: Dataset, target: int) -> str:
    return data.class_names[target] if data.class_names else str(target)


def influence_figure(ranking: pd.DataFrame, train: Dataset, tests: Dataset) -> Figure:
    """A test image with its most helpful training images (above) and its most harmful ones (below).

    Args:
        ranking: The rows of one test example, see `RunInfluence`.
        train: Training examples that can be drawn, see `picture`.
        tests: Test images, this one among them.
    """
    test = ranking.iloc[0]
    shown = min(PICTURED, int(ranking["rank"].max()))
    exponent = int(np.floor(np.log10(max(ranking["removal"].abs().max(), np.finfo(float).tiny))))
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(1.05 * (shown + 2.2), 3.0), layout="constrained")
        left, right = figure.subfigures(1, 2, width_ratios=[2.2, shown])  # type: ignore[misc]
        axes = left.subplots()
        _draw(axes, tests, int(test["test_id"]))
        axes.set_title(f"test {test['test']}: {test['test_class']}")
        axes.set_xlabel(f"predicted {test['predicted_class']}\nloss {test['test_loss']:.2g}")
        for (kind, colour), row in zip(KINDS.items(), right.subfigures(2, 1), strict=True):
            row.suptitle(f"most {kind}: removal changes the test loss by ... $\\times 10^{{{exponent}}}$", color=colour)
            chosen = ranking[ranking["kind"] == kind].head(shown)
            for axes, example in zip(row.subplots(1, shown, squeeze=False)[0], chosen.itertuples(), strict=True):
                _draw(axes, train, int(example.train_id))  # type: ignore[arg-type]
                axes.set_title(example.train_class, fontsize=9, color=_label_colour(example))
                axes.set_xlabel(f"{float(example.removal) / 10.0**exponent:+.1f}", labelpad=2)  # type: ignore[arg-type]
        return figure


def _label_colour(example: Any) -> str:
    return "black" if example.train_class == example.test_class else "tab:blue"


def _draw(axes: Axes, data: Dataset, example: int) -> None:
    image = picture(data, example)
    if image is None:
        raise ValueError(f"{data.name}: example {example} is no image and cannot be drawn")
    axes.imshow(_as_shown(image), cmap="gray_r")
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_color("lightgray")


def _as_shown(image: Float[Tensor, "channels height width"]) -> np.ndarray:
    """An image as imshow takes it, its values stretched to 0..1."""
    stretched = (image - image.min()) / (image.max() - image.min()).clamp(min=torch.finfo(image.dtype).tiny)
    channels_last = stretched.movedim(0, -1).cpu().numpy()
    return channels_last[..., 0] if channels_last.shape[-1] == 1 else channels_last


def printed_rankings(ranking: pd.DataFrame) -> list[Table]:
    """The ranking as it is printed, one table per test example."""
    tables = []
    for _, rows in ranking.groupby("test", sort=False):
        test = rows.iloc[0]
        table = Table(
            title=f"test {test['test']} (id {test['test_id']}): {test['test_class']}, predicted "
            f"{test['predicted_class']}, loss {test['test_loss']:.3g}",
            caption="removal: predicted change of this loss when the training example is left out",
        )
        table.add_column("rank", justify="right")
        for kind, colour in KINDS.items():
            table.add_column(f"most {kind}", justify="right", style=colour.removeprefix("tab:"))
            table.add_column("class")
            table.add_column("removal", justify="right")
        ends = [rows[rows["kind"] == kind].itertuples() for kind in KINDS]
        for pair in zip(*ends, strict=True):
            cells = [(end.train_id, end.train_class, f"{end.removal:+.3e}") for end in pair]
            table.add_row(str(pair[0].rank), *map(str, [cell for triple in cells for cell in triple]))
        tables.append(table)
    return tables
