"""What a run that predicts real numbers or labels came to: errors, intervals and whether they hold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.data.dataset import Dataset
from bayes_influence.moments.arithmetic import mean_of
from bayes_influence.moments.moments import Moments
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.predictive import predictive_of
from bayes_influence.training.minibatch import Trained

BATCH = 500
"""Examples predicted at once."""

REACH = 1.959964
"""Standard deviations to either side of a mean between which a Gaussian lies with a probability of 95 %."""


@dataclass(frozen=True, eq=False)
class RealPredicted:
    """Predictions of K real numbers for n examples, in the units of the targets that were trained.

    Attributes:
        mean: (n, K).
        deviation: (n, K) of the target: of the noise and, in a Bayesian network, of the output.
    """

    mean: Float[Tensor, "n K"]
    deviation: Float[Tensor, "n K"]


def predict_real(objective: Objective, data: Dataset, train: Dataset) -> RealPredicted:
    """Predictive means and standard deviations.

    The noise is the network's own where it learns it; of other networks it is the root mean squared error on the
    training examples. A Bayesian network's moments are propagated.

    Args:
        objective: A network where it stands.
        data: Examples.
        train: Training examples.
    """
    split = predictive_of(objective.likelihood, "a regression").split  # type: ignore[attr-defined]
    means, noises, variances = [], [], []
    for batch in data.batches(BATCH):
        with torch.no_grad():
            outputs = objective.outputs(objective.params, batch.inputs)
        mean, log_scale = split(mean_of(outputs))
        means.append(mean)
        noises.append(torch.exp(2 * log_scale))
        variances.append(split(outputs.variance)[0] if isinstance(outputs, Moments) else torch.zeros_like(mean))
    mean, noise, variance = torch.cat(means), torch.cat(noises), torch.cat(variances)
    if not objective.is_bayesian:
        with torch.no_grad():
            errors = [
                objective.outputs(objective.params, batch.inputs) - batch.targets for batch in train.batches(BATCH)
            ]
        noise = torch.cat(errors).square().mean(dim=0).expand_as(mean)
    return RealPredicted(mean, (noise + variance).sqrt())


def predictions_table(
    predicted: RealPredicted, data: Dataset, names: tuple[str, ...], units: tuple[Tensor, Tensor]
) -> pd.DataFrame:
    """A row per example and target: id, target, true, predicted, and the ends of its 95 % interval.

    Numbers have the digits that the precision of the training leaves, see `in_units`.

    Args:
        predicted: Predictions for `data`.
        data: Examples with standardised targets.
        names: Of the targets.
        units: Their mean and standard deviation in the training part, raw.
    """
    shift, scale = (part.double().cpu().numpy() for part in units)
    mean, deviation = (part.cpu().numpy() for part in (predicted.mean, predicted.deviation))
    reach = REACH * deviation
    columns = {
        "true": data.targets.cpu().numpy(),
        "predicted": mean,
        "low": mean - reach,
        "high": mean + reach,
    }
    rows = {name: in_units(values, scale, shift).reshape(-1) for name, values in columns.items()}
    count = len(names)
    ids = np.repeat(data.ids.cpu().numpy(), count)
    return pd.DataFrame({"id": ids, "target": list(names) * len(data)} | rows)


def in_units(
    values: Float[np.ndarray, "n *K"], scale: Float[np.ndarray, " K"], shift: Float[np.ndarray, " K"]
) -> Float[np.ndarray, "n *K"]:
    """The numbers scale * values + shift, each with the fewest digits that tell it from its neighbours.

    Neighbours are those of the values in float32 where all of them are float32 numbers, else in float64.

    Args:
        values: Standardised numbers.
        scale: Of each column.
        shift: Likewise.
    """
    raw, single = values.astype(np.float64) * scale + shift, values.astype(np.float32)
    kept = single if np.array_equal(single, values, equal_nan=True) else values
    leeway = np.spacing(np.abs(kept)).astype(np.float64) * scale / 2
    leeway += np.spacing(np.abs(raw)) + np.spacing(np.abs(shift))
    found = np.where(np.isfinite(raw), raw, 0.0)
    exact, left = found.copy(), np.isfinite(raw)
    for decimals in range(-5, 16):
        rounded = exact.round(decimals)
        fits = left & (np.abs(rounded - exact) <= leeway)
        found[fits], left = rounded[fits], left & ~fits
    return np.where(np.isfinite(raw), found, raw)


def real_row(table: pd.DataFrame) -> dict[str, float]:
    """Root mean squared and mean absolute error, R^2, and how often and how widely the 95 % intervals hold the truth.

    Args:
        table: What `predictions_table` returns, of one target; of several, the mean over them is taken.
    """
    rows = []
    for _, own in table.groupby("target", sort=False):
        errors = own["predicted"] - own["true"]
        inside = (own["low"] <= own["true"]) & (own["true"] <= own["high"])
        rows.append(
            {
                "rmse": float(np.sqrt((errors**2).mean())),
                "mae": float(errors.abs().mean()),
                "r2": float(1 - (errors**2).sum() / ((own["true"] - own["true"].mean()) ** 2).sum()),
                "coverage": float(inside.mean()),
                "interval_width": float((own["high"] - own["low"]).mean()),
            }
        )
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def label_row(trained: Trained, index: int, data: Dataset) -> dict[str, float]:
    """Share of right labels, share of examples with every label right, and the loss in nats per example."""
    objective = trained.at(index)
    predictive = predictive_of(objective.likelihood, "labels")
    right, exact, losses = [], [], []
    for batch in data.batches(BATCH):
        with torch.no_grad():
            outputs = objective.outputs(objective.params, batch.inputs)
            losses.append(objective.losses(objective.params, batch))
            exact.append(predictive.hits(outputs, batch.targets).double())
        logits = mean_of(outputs)
        right.append(((logits > 0) == (batch.targets.reshape(logits.shape) > 0)).double().reshape(len(logits), -1))
    return {
        "label_accuracy": float(torch.cat(right).mean()),
        "exact_accuracy": float(torch.cat(exact).mean()),
        "nll": float(torch.cat(losses).mean()),
    }
