"""Leave-one-out test losses from scratch: which example is predicted worst by a network that has not seen it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bayes_influence.data.batch import Batch
from bayes_influence.data.dataset import Dataset, Split
from bayes_influence.data.identities import example_ids
from bayes_influence.data.standardisation import standardise
from bayes_influence.data.tables import leave_out
from bayes_influence.objectives.derivatives import losses_of_members
from bayes_influence.objectives.members import stack_members
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.reweighting import largest_losses
from bayes_influence.torch_internals import tree_map
from bayes_influence.training.ensemble import train_ensemble
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.minibatch import train_minibatches
from bayes_influence.training.minibatch_schedule import full_batches
from bayes_influence.training.prepared import prepared_objective
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.schemes import Scheme


def held_out_losses(
    dataset: Dataset,
    ids: int | Iterable[int] | Tensor,
    make_network: Callable[[], nn.Module],
    scheme: Scheme,
    schedule: Schedule,
    *,
    seed: int = 0,
    progress: bool = False,
) -> Float[Tensor, " k"]:
    """Loss of each given example under a network trained from scratch on all others, standardised on those.

    All k networks start from the same seed, and train as `fit_schemes` trains them: as one ensemble where training is
    minimising the objective, else one by one, see `watch_step`.

    Args:
        dataset: Raw (not standardised) examples, one table of real features.
        ids: Which examples are held out, one at a time.
        make_network: Builds the deterministic network.
        scheme: How it is regularised.
        schedule: How long it trains.
        seed: Of the initialisation.
        progress: Whether to show a progress bar.
    """
    held_out = example_ids(ids).tolist()
    splits = [leave_out(dataset, index) for index in held_out]
    labels = [f"{scheme.name}, seed {seed}, without example {index}" for index in held_out]
    objective = prepared_objective(scheme, make_network, splits[0].train, seed)
    if not scheme.effects(objective, splits[0].train).as_evaluated:
        pairs = zip(splits, labels, strict=True)
        return torch.cat([_loss_alone(objective, split, scheme, schedule, seed, label) for split, label in pairs])
    start = {name: value.expand(len(splits), *value.shape) for name, value in objective.params.items()}
    moves = objective.taking("all").names
    trained = train_ensemble(
        objective,
        {name: value for name, value in start.items() if name in moves},
        _stacked([split.train for split in splits]),
        schedule,
        held={name: value for name, value in start.items() if name not in moves},
        averaged=torch.full((len(held_out),), scheme.averaging is not None, device=dataset.inputs.device),
        averaging=scheme.averaging,
        own_data=True,
        labels=labels,
        progress=progress,
    )
    tests = _stacked([split.test for split in splits])
    with torch.no_grad():
        return losses_of_members(objective, {**start, **trained.params}, tests, own_data=True)[:, 0]


def _loss_alone(
    objective: Objective, split: Split, scheme: Scheme, schedule: Schedule, seed: int, label: str
) -> Float[Tensor, " 1"]:
    """The loss of the example that is held out, after a training with noise or running statistics of its own."""
    size = len(split.train)
    trained = train_minibatches(
        objective,
        stack_members([objective.params]),
        split.train,
        scheme.scheduled(full_batches(schedule, size)),
        [seed],
        averaging=scheme.averaging,
        step=scheme.step(objective, size),
        labels=[label],
    ).at(0)
    with torch.no_grad():
        return trained.losses(trained.params, split.test.batch())


def _stacked(parts: list[Dataset]) -> Batch:
    """Data sets of one size as one batch with a leading member axis."""
    return tree_map(lambda *leaves: torch.stack(leaves), *(part.batch() for part in parts))


def hardest_example(
    dataset: Dataset,
    make_network: Callable[[], nn.Module],
    scheme: Scheme,
    schedule: Schedule,
    *,
    candidates: int = 10,
    seed: int = 0,
    progress: bool = False,
) -> int:
    """Id of the example with the largest leave-one-out loss.

    Held out in turn are the `candidates` with the largest loss of a network trained on all examples: an example that
    is predicted worst when unseen is among the worst when seen.

    Args:
        dataset: Raw (not standardised) examples.
        make_network: Builds the deterministic network.
        scheme: How it is regularised.
        schedule: How long it trains.
        candidates: How many examples are held out.
        seed: Of the initialisation.
        progress: Whether to show progress bars.
    """
    (everything,) = standardise(dataset)
    (fit,) = fit_schemes([scheme], make_network, everything, [seed], schedule, tolerance=None, progress=progress)
    ids = largest_losses(fit.at(0), everything, min(candidates, len(everything)))
    losses = held_out_losses(dataset, ids, make_network, scheme, schedule, seed=seed, progress=progress)
    return int(ids[losses.argmax()])
