"""`find_mislabelled`: which labels are wrong, of data at hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from bayes_influence.arguments import shown
from bayes_influence.data.appearance import every_class_name
from bayes_influence.data.dataset import Dataset
from bayes_influence.data.own_rows import OwnTable
from bayes_influence.data.sources import as_dataset
from bayes_influence.data.standardisation import standardise
from bayes_influence.evaluation.intervals import mean_interval
from bayes_influence.evaluation.known_rate import doubt_of_rate
from bayes_influence.evaluation.label_noise import LabelNoise, label_noise
from bayes_influence.experiments.attribution.labels.evidence import LabelEvidence, label_evidence
from bayes_influence.experiments.attribution.labels.kept import Predicted, kept_predictions
from bayes_influence.experiments.attribution.labels.looks import looks_of
from bayes_influence.experiments.attribution.labels.result import LabelIssues
from bayes_influence.experiments.attribution.labels.settings import (
    IN_MINIBATCHES,
    LARGEST_BATCH,
    LEARNING_RATE,
    NETWORK,
    SHOWN_MOST,
    STEPS,
    LabelSettings,
    in_minibatches,
    strengths,
)
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.influence.influence import Influence
from bayes_influence.models.mlp import MLP
from bayes_influence.training.cross_validation import (
    HeldOut,
    gains_of_longer_training,
    held_out_predictions,
    twins,
)
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.minibatch_schedule import MinibatchSchedule
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.scheme import Scheme

TOLERANCE = 1e-8
"""Gradient norm to which the last layer is brought in float64."""


def find_mislabelled(
    data: Any,
    target: str | None = None,
    *,
    network: Callable[[], nn.Module] | None = None,
    schemes: Sequence[Scheme] | None = None,
    schedule: Schedule | MinibatchSchedule | None = None,
    settings: LabelSettings | None = None,
    progress: bool = False,
) -> LabelIssues:
    """Ranks examples by how probable it is that their label is wrong, and flags those of a false-discovery rate.

    Every example is predicted by networks that were trained without it; `label_noise` tells wrong labels from
    ambiguous examples, and says what the rate rests on. Training rows that argue for and against are those of largest
    influence in the last layer of one more network, which is trained on everything; flagged rows are not heard.

    Args:
        data: A frame of pandas or polars; a `Dataset`; or a loader, a dataset of torch or a pair of arrays, see
            `as_dataset`. Without a `network`, one table of numbers, which is standardised.
        target: Of a frame: the column with the labels.
        network: Builds a network with one output per class; an MLP when not given, and data are taken as they are
            when it is.
        schemes: How networks are regularised, the one that predicts held-out labels best is taken; weight decay of
            three strengths, or of one in minibatches, when not given.
        schedule: Of each training; 200 steps on all examples at once when not given, or with a `network` and for more
            than `LARGEST_BATCH` rows in minibatches, see `in_minibatches`.
        settings: What is done.
        progress: Whether to show a progress bar.

    Returns:
        What was found. Rows are numbered from 0 in their order; the names that a frame's own index has for them, where
        these are others, stand in the column `index` beside.

    Raises:
        TypeError: If an argument is of another kind, or targets are no classes.
        ValueError: If a class has one member, there are fewer examples than folds, or a frame is refused, see
            `Dataset.from_dataframe`.
    """
    if not isinstance(settings, LabelSettings | None):
        raise TypeError(f"settings must be LabelSettings(...), got {shown(settings)}; leave them out for its defaults")
    frame = data if target is not None else None
    examples = _examples(data, target, standardised=network is None)
    at_once = network is None and len(examples) <= LARGEST_BATCH
    tried = list(schemes) if schemes is not None else strengths() if at_once else [IN_MINIBATCHES]
    if schedule is None:
        schedule = Schedule(STEPS, LEARNING_RATE) if at_once else in_minibatches(len(examples))
    issues = search_labels(
        examples,
        network or partial(_network, examples),
        tried,
        schedule,
        settings or LabelSettings(),
        frame=None if frame is None else OwnTable.of_frame(frame, str(target), "table", task="classification").frame,
        target=target,
        progress=progress,
    )
    index = getattr(frame, "index", None)
    if not isinstance(index, pd.Index) or index.equals(pd.RangeIndex(len(index))):
        return issues
    names = index.to_flat_index().map(str) if isinstance(index, pd.MultiIndex) else index
    ranked = issues.ranked.copy()
    ranked.insert(1, "index", names[ranked["row"].to_numpy()].to_numpy())
    return replace(issues, ranked=ranked)


def _examples(data: Any, target: str | None, *, standardised: bool) -> Dataset:
    if target is not None:
        return OwnTable.of_frame(data, target, "table", task="classification").all_examples(torch.float64)
    examples = as_dataset(data, "the examples")
    if not standardised:
        return examples
    inputs = examples.example.inputs
    if not examples.holds_inputs or not isinstance(inputs, Tensor) or inputs.ndim != 2:
        raise TypeError(
            f"{examples.name}: without a network the inputs must be one table of numbers, (n, features), in memory; "
            "give network=, a function that builds one for these inputs, or target=, the column of a frame"
        )
    (found,) = standardise(examples if inputs.is_floating_point() else examples.with_inputs(examples.inputs.double()))
    return found


def _network(examples: Dataset) -> nn.Module:
    return MLP(examples.example.inputs.shape[1], examples.n_classes, **NETWORK)


def search_labels(
    data: Dataset,
    make_network: Callable[[], nn.Module],
    schemes: Sequence[Scheme],
    schedule: Schedule | MinibatchSchedule,
    settings: LabelSettings,
    *,
    frame: pd.DataFrame | None = None,
    target: str | None = None,
    files: Sequence[str] | None = None,
    folder: StudyFolder | None = None,
    progress: bool = False,
) -> LabelIssues:
    """The way of the data through the search, see `find_mislabelled`.

    Args:
        data: Examples of one class each, standardised.
        make_network: Builds the deterministic network.
        schemes: That are tried.
        schedule: Of each training.
        settings: What is done.
        frame: The table that the examples are rows of, as it was read.
        target: Its column with the labels.
        files: Of images: the file of every id.
        folder: Where the held-out predictions are kept; nowhere when not given.
        progress: Whether to show a progress bar.

    Raises:
        TypeError: If targets are no classes.
        ValueError: As `find_mislabelled`.
    """
    _check_labels(data)

    def predicted() -> Predicted:
        tried = held_out_predictions(
            schemes, make_network, data, settings.seeds, schedule, folds=settings.folds, progress=progress
        )
        best = _best(tried, data)
        gains = gains_of_longer_training(tried[best], schemes[best], make_network, data, settings.seeds[0], schedule)
        return Predicted(tried, gains)

    found = kept_predictions(folder, predicted)
    tried, best = found.tried, _best(found.tried, data)
    noise = label_noise(tried[best].probabilities, data.targets.cpu())
    doubt = doubt_of_rate(tried[best].probabilities, data.targets.cpu())
    order = noise.wrong.argsort(descending=True, stable=True)
    flagged = 0 if doubt else int(noise.flagged(settings.level).sum())
    listed = order[: min(max(settings.listed, flagged), SHOWN_MOST, len(order))]
    influence = _influence(schemes[best], make_network, data, settings, schedule)
    witnesses = ~noise.flagged(settings.level)
    evidence = label_evidence(influence, data, data.ids[listed], noise.proposed[listed], settings.evidence, witnesses)
    ranked = _ranked(data, tried[best], noise, settings, order, influence, evidence)
    if doubt is not None:
        ranked = ranked.assign(false_discovery_rate=math.nan, flagged=False)
    if files is not None:
        ranked.insert(1, "file", [files[row] for row in ranked["row"]])
    mentioned = [*evidence.supporting, *evidence.opposing, *evidence.proposing]
    ids = dict.fromkeys([*data.ids[listed].tolist(), *(row for rows in mentioned for row in rows)])
    return LabelIssues(
        name=data.name,
        ranked=ranked,
        level=settings.level,
        noise_rate=noise.rate,
        doubt=doubt,
        scheme=schemes[best].name,
        longer=mean_interval(found.gains.numpy()),
        agreement=float((tried[best].probabilities.argmax(dim=1) == data.targets.cpu()).double().mean()),
        class_names=every_class_name(data),
        looks=looks_of(data, list(ids), frame, target),
        listed=len(listed),
        frame=frame,
        target=target,
        folder=None if folder is None else folder.path,
    )


def _check_labels(data: Dataset) -> None:
    if data.targets.is_floating_point() or data.targets.ndim != 1:
        raise TypeError(
            f"{data.name}: wrong labels are searched where every example has one class, whole numbers of shape "
            f"({len(data)},), got {data.targets.dtype} of shape {tuple(data.targets.shape)}"
        )
    data.check_classes()


def _best(tried: list[HeldOut], data: Dataset) -> int:
    """Which scheme's networks give the labels as they are, held out, the highest mean log probability."""
    labels = data.targets.cpu()[:, None]
    fits = [float(one.probabilities.gather(1, labels).clamp(min=torch.finfo().tiny).log().mean()) for one in tried]
    return fits.index(max(fits))


def _influence(
    scheme: Scheme,
    make_network: Callable[[], nn.Module],
    data: Dataset,
    settings: LabelSettings,
    schedule: Schedule | MinibatchSchedule,
) -> Influence:
    """Influence in the last layer of a network that was trained on everything, at its minimum where it has one."""
    exact = data.example.inputs.dtype == torch.float64
    tolerance = TOLERANCE if exact else None
    (fits,) = fit_schemes([scheme], make_network, data, settings.seeds[:1], schedule, tolerance=tolerance)
    polished = bool(fits.polished.all())
    return Influence(fits.at(0), data, damping=0.0 if polished else "auto")


def _ranked(
    data: Dataset,
    held_out: HeldOut,
    noise: LabelNoise,
    settings: LabelSettings,
    order: Tensor,
    influence: Influence,
    evidence: LabelEvidence,
) -> pd.DataFrame:
    """All examples, the most suspicious first, see `LabelIssues.ranked`."""
    labels, probabilities = data.targets.cpu(), held_out.probabilities
    names = every_class_name(data)
    columns: dict[str, Any] = {
        "row": data.ids.cpu(),
        "label": labels,
        "proposed": noise.proposed,
        "wrong": noise.wrong,
        "false_discovery_rate": noise.false_discovery_rate,
        "flagged": noise.flagged(settings.level),
        "loss": -_own(probabilities, labels).log(),
        "margin": _margins(probabilities, labels),
        "predicted": probabilities.argmax(dim=1),
        "epistemic": held_out.epistemic,
        "aleatoric": held_out.aleatoric,
        "self_influence": influence.self_influence().cpu(),
    }
    found = pd.DataFrame({name: column[order].numpy() for name, column in columns.items()})
    for name in ("label", "proposed", "predicted"):
        found[name] = [names[index] for index in found[name]]
    found["twins"] = _contradicting(data, labels, order)
    rest = [""] * (len(found) - len(evidence.supporting))
    for name in ("supporting", "opposing", "proposing"):
        found[name] = [" ".join(map(str, rows)) for rows in getattr(evidence, name)] + rest
    return found


def _own(probabilities: Float[Tensor, "n C"], labels: Tensor) -> Float[Tensor, " n"]:
    return probabilities.gather(1, labels[:, None])[:, 0].clamp(min=torch.finfo().tiny)


def _margins(probabilities: Float[Tensor, "n C"], labels: Tensor) -> Float[Tensor, " n"]:
    """Log p of the label minus that of the most probable other class: negative where another is predicted."""
    others = probabilities.scatter(1, labels[:, None], 0.0).amax(dim=1).clamp(min=torch.finfo().tiny)
    return _own(probabilities, labels).log() - others.log()


def _contradicting(data: Dataset, labels: Tensor, order: Tensor) -> list[str]:
    """Ids of the rows that are the same but for the label, of each row."""
    groups = twins(data)
    members: dict[int, list[int]] = {}
    for place, group in enumerate(groups.tolist()):
        members.setdefault(group, []).append(place)
    found = []
    for place in order.tolist():
        others = members[int(groups[place])]
        found.append(" ".join(str(int(data.ids[other])) for other in others if labels[other] != labels[place]))
    return found
