"""The cells of figures 4 and 5: estimated and true effects, and the test loss at every step of the refits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bayes_influence.experiments.comparison.study import Study
from bayes_influence.experiments.papers.fragility.choices import Choices, choices_of
from bayes_influence.experiments.papers.fragility.heads import (
    estimated_effects,
    head_of,
    largest_effects,
    refitted,
    true_effects,
)
from bayes_influence.experiments.papers.fragility.image_settings import ImageCell
from bayes_influence.experiments.papers.fragility.networks import Networks, dtype_of
from bayes_influence.experiments.papers.fragility.protocol import Pipeline
from bayes_influence.experiments.store.cells import CellResult
from bayes_influence.experiments.training.run import run_training
from bayes_influence.objectives.reweighting import Removals, example_losses
from bayes_influence.retraining.minimum import Minimum
from bayes_influence.retraining.refits import losses_after
from bayes_influence.retraining.warm import Warm
from bayes_influence.training.schedules import Plateau

STEPS_KEPT = 400
"""Steps of a refit that are stored, evenly spaced; the last is among them."""


@dataclass(frozen=True)
class CurveCell:
    """One setting of figures 4 and 5.

    Attributes:
        name: "iris", or the image network's label.
        mode: "corrected" or "as-published".
        shown: Removals whose refits are watched.
        iris: The networks on Iris, of one seed; None for an image network.
        image: The image network; None for Iris.
    """

    name: str
    mode: str
    shown: int
    iris: Study | None = None
    image: ImageCell | None = None


def measure_curves(cell: CurveCell, out: Path, data_folder: str | None) -> CellResult:
    """Estimated and true effects, and the test loss while refitting, of one setting.

    Args:
        cell: Which.
        out: The study's folder; the training of an image network goes into it.
        data_folder: Where image sets are kept.

    Returns:
        Tables `differences` (a row per scheme and removed example), `curves` (a row per scheme, refit and step; refit 0
        removes nothing) and `ends` (a row per scheme and refit: the exact answer, NaN where there is none, the fit).
    """
    if cell.iris is not None:
        tables = _iris_tables(cell.iris, choices_of(cell.mode), cell.shown)
    else:
        assert cell.image is not None
        tables = _image_tables(cell.image, cell.shown, out, data_folder)
    for frame in tables.values():
        frame.insert(0, "setting", cell.name)
    return CellResult(tables=tables)


def _iris_tables(study: Study, choices: Choices, shown: int) -> dict[str, pd.DataFrame]:
    points = min(choices.points, study.removals)
    pipeline = Pipeline(study, points)
    differences = pipeline.measure(replace(choices, points=points)).differences
    curves, ends = [], []
    for networks in pipeline.networks(choices):
        removed = pipeline.truths(networks, choices).removed[0, :shown]
        watched, exact, before = _watched_on_iris(pipeline, networks, choices, removed)
        curves.append(_curve_table(watched).assign(scheme=networks.scheme))
        ends.append(_end_table(removed, exact, before).assign(scheme=networks.scheme))
    together = {"curves": curves, "ends": ends}
    return {"differences": differences} | {name: pd.concat(rows, ignore_index=True) for name, rows in together.items()}


def _watched_on_iris(
    pipeline: Pipeline, networks: Networks, choices: Choices, removed: Int[Tensor, " k"]
) -> tuple[Float[Tensor, "k_plus_1 epochs"], Float[Tensor, " k_plus_1"], float]:
    """Test losses at every step of the refits by training, at their minima where those exist, and at the fit."""
    dtype = dtype_of(choices)
    train, test = pipeline.split.train.to(dtype=dtype), pipeline.split.test.to(dtype=dtype)
    begin = networks.members if choices.swa_from_average else networks.start
    begin = begin.select([0]).taking("last-layer" if choices.last_layer_refits else "all")
    removals = Removals.one_at_a_time(removed.unsqueeze(0), "fixed" if choices.fixed_mean else "renormalised")
    averaging = None if choices.swa_from_average else networks.averaging
    schedule = replace(pipeline.study.refits, plateau=Plateau())
    refits = Warm(schedule, averaging=averaging, watch=test).refit(begin, train, removals)
    exact = torch.full((len(removed) + 1,), torch.nan)
    if choices.last_layer_refits and choices.double_precision and begin.objective.is_regularised:
        exact = losses_after(Minimum().refit(begin, train, removals), test)[0, :, 0]
    assert refits.watched is not None
    before = float(example_losses(networks.members.at(0), test)[0])
    return refits.watched[0, :, :, 0], exact, before


def _image_tables(cell: ImageCell, shown: int, out: Path, data_folder: str | None) -> dict[str, pd.DataFrame]:
    trained, split = run_training(cell.run(), out / "network", data_folder=data_folder, progress=False)
    choices = choices_of(cell.mode)
    head = head_of(trained.at(0), split, choices)
    test = head.test_example("max")
    estimated = estimated_effects(head, test, choices, summed=cell.network.small, seed=cell.seed)
    removed = largest_effects(estimated, head.train, cell.removals)
    slow = cell.network.slow
    refits = refitted(head, removed, choices, cell.refit_epochs, slow=slow)
    effects = true_effects(head, refits, test, choices)
    keys = {"scheme": cell.network.scheme, "estimator": "influence", "seed": cell.seed}
    pairs = {"example": removed, "estimated": estimated[head.train.positions(removed)], "true": effects}
    few = removed[:shown]
    watched = refitted(head, few, choices, cell.refit_epochs, slow=slow, watch=test).watched
    assert watched is not None
    exact = torch.full((len(few) + 1,), torch.nan)
    if choices.exact_refits and choices.double_precision:
        exact = losses_after(refits, test)[0, : len(few) + 1, 0]
    before = float(example_losses(head.objective, test)[0])
    return {
        "differences": pd.DataFrame(keys | {name: value.numpy() for name, value in pairs.items()}),
        "curves": _curve_table(watched[0, :, :, 0]).assign(scheme=cell.network.scheme),
        "ends": _end_table(few, exact, before).assign(scheme=cell.network.scheme),
    }


def _curve_table(watched: Float[Tensor, "k_plus_1 epochs"]) -> pd.DataFrame:
    """One row per refit and kept step."""
    refits, epochs = watched.shape
    kept = np.unique(np.linspace(0, epochs - 1, min(epochs, STEPS_KEPT)).round().astype(int))
    return pd.DataFrame(
        {
            "refit": np.repeat(np.arange(refits), len(kept)),
            "epoch": np.tile(kept, refits),
            "loss": watched[:, torch.from_numpy(kept)].double().numpy().reshape(-1),
        }
    )


def _end_table(removed: Int[Tensor, " k"], exact: Float[Tensor, " k_plus_1"], before: float) -> pd.DataFrame:
    """One row per refit; the control has the example -1."""
    columns: dict[str, Any] = {
        "refit": np.arange(len(exact)),
        "example": np.concatenate([[-1], removed.numpy()]),
        "exact": exact.double().numpy(),
    }
    return pd.DataFrame(columns | {"before": before})
