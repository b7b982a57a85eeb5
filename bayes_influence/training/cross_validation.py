"""What networks say of examples that they were not trained on: every example held out once, in one fold of several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm

from bayes_influence.arguments import check_whole, checked_seed
from bayes_influence.curvature.cost import ProgressLines
from bayes_influence.data.dataset import Dataset
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.prediction import entropy, predict_classes
from bayes_influence.torch_internals import tree_leaves
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.minibatch_schedule import MinibatchSchedule
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.scheme import Scheme

EXAMPLES = 1024
"""Examples that are predicted at a time."""

ROUNDING = 1e-4
"""Share of a column's range by which rounding to single precision may move its numbers against each other."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Predictions of every example by networks that were trained without it.

    Attributes:
        folds: (n,) the fold that each example was held out in.
        members: (M, n, C) class probabilities of each seed's network.
        member_epistemic: (M, n) mutual information between class and weights within each network, in nats; 0 of
            deterministic ones.
    """

    folds: Int[Tensor, " n"]
    members: Float[Tensor, "M n C"]
    member_epistemic: Float[Tensor, "M n"]

    @property
    def probabilities(self) -> Float[Tensor, "n C"]:
        """Averaged over the seeds."""
        return self.members.mean(dim=0)

    @property
    def epistemic(self) -> Float[Tensor, " n"]:
        """Mutual information between class and network: H(mean_m p_m) - mean_m (H(p_m) - epistemic_m), in nats.

        NaN of one deterministic network, which cannot tell.
        """
        if len(self.members) == 1 and not self.member_epistemic.any():
            return torch.full_like(self.member_epistemic[0], torch.nan)
        within = entropy(self.members) - self.member_epistemic
        return (entropy(self.probabilities) - within.mean(dim=0)).clamp(min=0)

    @property
    def aleatoric(self) -> Float[Tensor, " n"]:
        """Entropy of the averaged probabilities without the epistemic part, in nats; NaN where that is."""
        return entropy(self.probabilities) - self.epistemic


def twins(data: Dataset) -> Int[Tensor, " n"]:
    """A number for every example that examples of the same inputs, bit for bit, share."""
    known: dict[bytes, int] = {}
    numbers = []
    for batch in data.batches(EXAMPLES):
        rows = [leaf.detach().cpu().reshape(len(batch.targets), -1).numpy() for leaf in tree_leaves(batch.inputs)]
        numbers += [
            known.setdefault(b"".join(row.tobytes() for row in parts), len(known)) for parts in zip(*rows, strict=True)
        ]
    return torch.tensor(numbers)


def fold_numbers(targets: Int[Tensor, " n"], groups: Int[Tensor, " n"], folds: int, seed: int = 0) -> Int[Tensor, " n"]:
    """A fold for every example: groups stay together, and each class is spread over the folds as evenly as they allow.

    Args:
        targets: Class indices.
        groups: Examples of one number are never in different folds, such as twins, of which one would give the other
            away.
        folds: How many.
        seed: Of the order in which the members of a class are dealt.

    Raises:
        TypeError: If a number is no whole one.
        ValueError: If there are fewer than 2 folds, or fewer groups than folds.
    """
    check_whole(folds=folds)
    count = int(groups.max()) + 1
    if not 2 <= folds <= count:
        raise ValueError(f"folds must lie in 2..{count}, the number of different examples, got {folds}")
    generator = torch.Generator().manual_seed(checked_seed(seed))
    first = torch.full((count,), len(groups)).scatter_reduce(0, groups, torch.arange(len(groups)), "amin")
    dealt = torch.randperm(count, generator=generator)
    dealt = dealt[targets[first[dealt]].argsort(stable=True)]
    fold = torch.empty(count, dtype=torch.int64)
    fold[dealt] = torch.arange(count) % folds
    return fold[groups]


def rounded(data: Dataset) -> Dataset:
    """The examples in single precision, where that keeps their inputs apart as they are; else as they came."""
    if not data.holds_inputs or not isinstance(data.inputs, Tensor) or data.inputs.dtype != torch.float64:
        return data
    columns = data.inputs.reshape(len(data), -1)
    moved = columns.float() - columns
    fine = moved.amax(dim=0) - moved.amin(dim=0) <= ROUNDING * (columns.amax(dim=0) - columns.amin(dim=0))
    return data.to(dtype=torch.float32) if bool(fine.all()) else data


def held_out_predictions(
    schemes: Sequence[Scheme],
    make_network: Callable[[], nn.Module],
    data: Dataset,
    seeds: Sequence[int],
    schedule: Schedule | MinibatchSchedule,
    *,
    folds: int = 5,
    progress: bool = False,
) -> list[HeldOut]:
    """Trains networks of every scheme without one fold after the other, and predicts it; see `fold_numbers`.

    Networks are in single precision, in which a training takes less than half of the time, unless that would round away
    more than `ROUNDING` of what tells the examples apart.

    Args:
        schemes: How networks are regularised.
        make_network: Builds the deterministic network.
        data: Examples of one class each.
        seeds: Networks per fold and scheme.
        schedule: Of each training.
        folds: How many.
        progress: Whether to show a progress bar.

    Returns:
        One `HeldOut` per scheme, in their order.

    Raises:
        ValueError: As `fold_numbers` and `fit_schemes`.
        TypeError: As `fit_schemes`.
    """
    numbers = fold_numbers(data.targets.cpu(), twins(data), folds)
    data = rounded(data)
    shape = (len(schemes), len(seeds), len(data))
    epistemic = torch.zeros(shape, dtype=torch.float64)
    members: Tensor | None = None
    bar = tqdm(range(folds), desc="held-out networks", unit="fold", disable=None if progress else True)
    lines = ProgressLines("held-out part", folds, hidden=not (progress and bar.disable))
    for fold in bar:
        inside, outside = (numbers != fold).nonzero()[:, 0], (numbers == fold).nonzero()[:, 0]
        fitted = fit_schemes(schemes, make_network, data.select(inside), seeds, schedule, tolerance=None, fewest=0)
        for index, fits in enumerate(fitted):
            for member in range(len(seeds)):
                probabilities, own = class_predictions(fits.at(member), data.select(outside))
                members = probabilities.new_zeros(*shape, probabilities.shape[1]) if members is None else members
                members[index, member, outside] = probabilities
                epistemic[index, member, outside] = own
        lines.reached(fold + 1)
    assert members is not None
    return [HeldOut(numbers, *both) for both in zip(members, epistemic, strict=True)]


def gains_of_longer_training(
    found: HeldOut,
    scheme: Scheme,
    make_network: Callable[[], nn.Module],
    data: Dataset,
    seed: int,
    schedule: Schedule | MinibatchSchedule,
) -> Float[Tensor, " m"]:
    """By how much the loss of each label of the first fold, held out, falls when a network is trained twice as long.

    A mean that is large beside the loss says that training ended before the networks had learned what there is.

    Args:
        found: Predictions of the scheme's networks, as `held_out_predictions` returned them.
        scheme: How they were regularised.
        make_network: Builds the deterministic network.
        data: Their examples.
        seed: Of the first of them, the one that is trained again.
        schedule: Of their trainings.

    Returns:
        In nats, in the order of the fold's examples.
    """
    inside, outside = (found.folds != 0).nonzero()[:, 0], (found.folds == 0).nonzero()[:, 0]
    twice, data = replace(schedule, epochs=2 * schedule.epochs), rounded(data)
    (fits,) = fit_schemes([scheme], make_network, data.select(inside), [seed], twice, tolerance=None, fewest=0)
    longer, _ = class_predictions(fits.at(0), data.select(outside))
    labels = data.targets.cpu()[outside][:, None]
    before, after = (
        one.gather(1, labels)[:, 0].clamp(min=torch.finfo(torch.float32).tiny).log()
        for one in (found.members[0, outside], longer)
    )
    return after - before


def class_predictions(objective: Objective, data: Dataset) -> tuple[Float[Tensor, "n C"], Float[Tensor, " n"]]:
    """Probabilities and epistemic uncertainty of all examples, in turns, on the processor and in float64."""
    found = [predict_classes(objective, batch.inputs) for batch in data.batches(EXAMPLES)]
    return (
        torch.cat([one.probabilities.detach() for one in found]).double().cpu(),
        torch.cat([one.epistemic.detach() for one in found]).double().cpu(),
    )
