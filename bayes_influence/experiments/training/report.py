"""What a training run came to: scores of its predictions, and whether their uncertainty knows where the errors are."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from bayes_influence.data import catalogue
from bayes_influence.data.dataset import Dataset, Split
from bayes_influence.data.tables import Rows
from bayes_influence.evaluation.calibration import (
    calibration,
    misclassification_auroc,
    out_of_distribution_auroc,
    reliability,
)
from bayes_influence.experiments.store.drawings import Drawing
from bayes_influence.experiments.store.figures import save_figure
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.store.record import REPORT
from bayes_influence.experiments.training.real_report import label_row, predict_real, predictions_table, real_row
from bayes_influence.experiments.training.referee import neglect, sampled_row, warn_where_parted
from bayes_influence.experiments.training.run import SECONDS, epoch_seconds, run_training
from bayes_influence.experiments.training.settings import TrainRun
from bayes_influence.moments.moments import Moments
from bayes_influence.moments.softmax import softmax
from bayes_influence.objectives.members import member
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.posteriors import WeightPosterior, linearized_outputs
from bayes_influence.objectives.prediction import LOGIT_DRAWS, classes_of, entropy, predict_classes
from bayes_influence.objectives.predictive import ClassPredictive
from bayes_influence.training.minibatch import Trained

logger = logging.getLogger(__name__)

BATCH = 500
"""Examples predicted at once."""

POSTERIOR_SAMPLES = 30
"""Weights drawn for a prediction under a posterior beside a network, as published for SWAG."""


@dataclass(frozen=True, eq=False)
class Predicted:
    """Predictions for n examples.

    Attributes:
        probabilities: Predictive mean, (n, C).
        variance: Sum over the classes of the variance of the softmax outputs under the posterior, (n,); None for a
            single network.
    """

    probabilities: Float[Tensor, "n C"]
    variance: Float[Tensor, " n"] | None

    @property
    def entropy(self) -> Float[Tensor, " n"]:
        """Of the predictive mean, in nats."""
        return entropy(self.probabilities)


def predict_all(
    trained: Trained, index: int, data: Dataset, mode: str = "diagonal", posterior: WeightPosterior | None = None
) -> Predicted:
    """Predictions of one of a run's networks: its own, the Bayesian network's, or under a posterior beside it.

    Args:
        trained: The networks.
        index: Which one.
        data: Examples.
        mode: How a Bayesian network predicts, see `predict`; `"diagonal"`, which a posterior beside the network has
            not, is its usual one there.
        posterior: Beside the network; SWAG's when not given, where there is one.

    Raises:
        TypeError: If the likelihood does not say that outputs are classes.
        ValueError: If examples have several labels each.
    """
    objective = trained.at(index)
    classes = classes_of(objective)
    with torch.no_grad():
        first = objective.outputs(objective.params, data.example.inputs)
    if (labels := classes.class_logits(first)).ndim > 2:
        raise ValueError(
            f"{data.name}: a report is on one class per example, got {labels.shape[1]} labels each; take what "
            f"`predict` returns, label by label"
        )
    if posterior is None and trained.posteriors:
        posterior = trained.posteriors[index]
    if posterior is not None:
        return _under(posterior, objective, classes, data, posterior.usual_mode if mode == "diagonal" else mode)
    if not isinstance(first, Moments):
        return _deterministic(objective, classes, data)
    parts = [predict_classes(objective, batch.inputs, mode=mode) for batch in data.batches(BATCH)]
    variances = [softmax(part.logits, dim=-1).variance.sum(-1) for part in parts]
    return Predicted(torch.cat([part.probabilities for part in parts]), torch.cat(variances))


def _under(
    posterior: WeightPosterior, objective: Objective, classes: ClassPredictive, data: Dataset, mode: str
) -> Predicted:
    """Means and variances of the softmax over drawn weights, or over the linearised network's logits at such."""
    if mode == "sampled":
        draws = posterior.sample(POSTERIOR_SAMPLES, torch.Generator().manual_seed(0))
        objectives = [objective.at({**objective.params, **member(draws, draw)}) for draw in range(POSTERIOR_SAMPLES)]
        outputs = torch.stack([_deterministic(own, classes, data).probabilities for own in objectives])
        return Predicted(outputs.mean(0), outputs.var(0).sum(-1))
    means, variances = [], []
    for batch in data.batches(BATCH):
        drawn = linearized_outputs(objective, posterior, batch.inputs).draws(LOGIT_DRAWS)
        each = torch.softmax(torch.stack([classes.class_logits(one) for one in drawn]), dim=-1)
        means.append(each.mean(0))
        variances.append(each.var(0).sum(-1))
    return Predicted(torch.cat(means), torch.cat(variances))


def _deterministic(objective: Objective, classes: ClassPredictive, data: Dataset) -> Predicted:
    """Of a single network, or the mean over several, whose softmax varies between them."""
    with torch.no_grad():
        outputs = torch.cat([objective.outputs(objective.params, batch.inputs) for batch in data.batches(BATCH)])
    members = classes.members(outputs)
    if members is None:
        return Predicted(torch.softmax(classes.class_logits(outputs), dim=-1), None)
    each = torch.softmax(members, dim=-1)
    return Predicted(each.mean(0), each.var(0).sum(-1))


def report_row(predicted: Predicted, data: Dataset, outside: Predicted | None = None) -> dict[str, float | int]:
    """Accuracy, NLL, Brier score, calibration error; areas under the ROC of entropy and of predictive variance.

    Args:
        predicted: Predictions for `data`.
        data: Test examples.
        outside: Predictions for examples of another distribution.

    Returns:
        The columns of `Calibration` (its `misclassification_auroc` is by entropy), `variance_auroc` for wrong against
        right, `outside_entropy_auroc` and `outside_variance_auroc` for outside against inside; NaN where there is no
        variance or nothing outside.
    """
    targets = data.targets.cpu().numpy()
    row: dict[str, float | int] = calibration(_array(predicted.probabilities), targets).to_row()
    correct = _array(predicted.probabilities).argmax(1) == targets
    variance, other = predicted.variance, None if outside is None else outside.variance
    row["variance_auroc"] = np.nan if variance is None else misclassification_auroc(_array(variance), correct)
    row["outside_entropy_auroc"] = row["outside_variance_auroc"] = np.nan
    if outside is not None:
        row["outside_entropy_auroc"] = out_of_distribution_auroc(_array(predicted.entropy), _array(outside.entropy))
        if variance is not None and other is not None:
            row["outside_variance_auroc"] = out_of_distribution_auroc(_array(variance), _array(other))
    return row


def _array(values: Tensor) -> np.ndarray:
    return values.detach().double().cpu().numpy()


def outside_examples(run: TrainRun, data_folder: str | Path | None) -> Dataset | None:
    """Test examples from outside the data's distribution, as `catalogue.outside_examples`; None where there are none.

    That they cannot be had is no reason to fail after a training: it is a warning.
    """
    try:
        found = catalogue.outside_examples(run.dataset, getattr(torch, run.dtype), data_folder)
    except (OSError, ValueError) as error:
        logger.warning("no out-of-distribution examples: %s", error)
        return None
    return None if found is None else found.to(run.device)


def train_and_report(
    run: TrainRun,
    out: str | Path,
    *,
    data_folder: str | Path | None = None,
    mode: str = "diagonal",
    progress: bool = True,
) -> pd.DataFrame:
    """Trains a run and reports on it: `report.csv`, `history.csv`, `reliability.csv`, `reliability.png` and `.pdf`.

    Args:
        run: What to train.
        out: Its folder, see `run_training`.
        data_folder: Where image sets are kept.
        mode: How a Bayesian network predicts: `"diagonal"`, `"linearized"` or `"sampled"`.
        progress: Whether to show a progress bar.

    Returns:
        One row per seed, see `report_row`, `sampled_row` and `neglect`; `epoch_seconds` is the median wall time of an
        epoch divided by the seeds.
    """
    trained, split = run_training(run, out, data_folder=data_folder, progress=progress)
    return write_report(run, out, trained, split, outside_examples(run, data_folder), mode)


def write_report(
    run: TrainRun,
    out: str | Path,
    trained: Trained,
    split: Split,
    outside: Dataset | None = None,
    mode: str = "diagonal",
) -> pd.DataFrame:
    """The report on a finished run, see `train_and_report`."""
    folder = StudyFolder.open(out)
    if run.known().task != "classification":
        return _write_other_report(run, folder, trained, split)
    seconds = float(epoch_seconds(folder)["seconds"].median()) / len(run.seeds)
    rows, curves = [], []
    for index, seed in enumerate(run.seeds):
        posterior = run.resolved_scheme().posterior(trained.at(index), split.train)
        predicted = predict_all(trained, index, split.test, mode, posterior)
        elsewhere = None if outside is None else predict_all(trained, index, outside, mode, posterior)
        row = report_row(predicted, split.test, elsewhere)
        refereed = sampled_row(trained.at(index), split.test, predicted.probabilities)
        warn_where_parted(trained.labels[index], row["nll"], refereed, run.resolved_scheme().options)
        checked = neglect(trained.at(index), split.test)
        if checked["neglect"]:
            logger.info("%s: %s", trained.labels[index], checked["neglect"])
        rows.append({"seed": seed} | row | refereed | checked | {"epoch_seconds": seconds})
        curve = reliability(_array(predicted.probabilities), split.test.targets.cpu().numpy())
        curve.insert(0, "seed", seed)
        curves.append(curve)
    report, curves_frame = pd.DataFrame(rows), pd.concat(curves, ignore_index=True)
    tables = {"report": report, "history": history(run, trained), "reliability": curves_frame}
    folder.save_cell(REPORT, tables)
    for name, frame in {**tables, SECONDS: epoch_seconds(folder).reset_index()}.items():
        folder.write_table(name, frame)
    title = f"{run.dataset}, {run.network}, {run.scheme}"
    save_figure(Drawing(reliability_figure, (curves_frame, title)), folder, "reliability")
    return report


def _write_other_report(run: TrainRun, folder: StudyFolder, trained: Trained, split: Split) -> pd.DataFrame:
    """The report on labels or real numbers; of these `predictions.csv`, too, with intervals, in their own units."""
    known = run.known()
    seconds = float(epoch_seconds(folder)["seconds"].median()) / len(run.seeds)
    rows, predictions = [], []
    for index, seed in enumerate(run.seeds):
        if known.task == "labels" or not isinstance(known, Rows):
            row = label_row(trained, index, split.test)
        else:
            predicted = predict_real(trained.at(index), split.test, split.train)
            table = predictions_table(predicted, split.test, known.target_names, known.target_units())
            row = real_row(table)
            table.insert(0, "seed", seed)
            predictions.append(table)
        rows.append({"seed": seed} | row | {"epoch_seconds": seconds})
    tables = {"report": pd.DataFrame(rows), "history": history(run, trained)}
    if predictions:
        tables["predictions"] = pd.concat(predictions, ignore_index=True)
    folder.save_cell(REPORT, tables)
    for name, frame in {**tables, SECONDS: epoch_seconds(folder).reset_index()}.items():
        folder.write_table(name, frame)
    return tables["report"]


def history(run: TrainRun, trained: Trained) -> pd.DataFrame:
    """Objective and training accuracy of every epoch and seed."""
    epochs, members = trained.accuracies.shape
    return pd.DataFrame(
        {
            "epoch": np.repeat(np.arange(1, epochs + 1), members),
            "seed": np.tile(run.seeds, epochs),
            "objective": _array(trained.values).reshape(-1),
            "train_accuracy": _array(trained.accuracies).reshape(-1),
        }
    )


def reliability_figure(curves: pd.DataFrame, title: str) -> Figure:
    """Accuracy against confidence, one line per seed, and the share of examples in every bin below.

    Args:
        curves: What `reliability` returns, with a column `seed` before it.
        title: Of the figure.
    """
    figure = Figure(figsize=(4.5, 5.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--")
    for seed, curve in curves.groupby("seed"):
        upper.plot(curve["confidence"], curve["accuracy"], marker="o", markersize=3, label=f"seed {seed}")
        lower.step((curve["low"] + curve["high"]) / 2, curve["share"], where="mid")
    upper.set(ylabel="accuracy", title=title, xlim=(0, 1), ylim=(0, 1))
    upper.legend(frameon=False)
    lower.set(xlabel="confidence", ylabel="share", yscale="log")
    return figure
