"""Leave-one-out test losses from scratch: which example is predicted worst by a network that has not seen it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import vmap

from bayes_influence.data.dataset import Batch, Dataset
from bayes_influence.data.identities import example_ids
from bayes_influence.data.standardisation import standardise
from bayes_influence.data.tables import leave_out
from bayes_influence.models.initialisation import initial_params
from bayes_influence.objectives.reweighting import largest_losses
from bayes_influence.torch_internals import tree_map
from bayes_influence.training.ensemble import train_ensemble
from bayes_influence.training.fits import fit_schemes
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

    All k networks start from the same seed and train as one ensemble.

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
    network = scheme.prepare(make_network()).to(dtype=dataset.inputs.dtype, device=dataset.inputs.device)
    objective = scheme.objective(network, len(dataset) - 1)
    start = initial_params(
        lambda: scheme.prepare(make_network()), [seed] * len(held_out), dataset.inputs.dtype, dataset.inputs.device
    )
    trained = train_ensemble(
        objective,
        start,
        _stacked([split.train for split in splits]),
        schedule,
        averaged=torch.full((len(held_out),), scheme.averaging is not None, device=dataset.inputs.device),
        averaging=scheme.averaging,
        own_data=True,
        labels=[f"{scheme.name}, seed {seed}, without example {index}" for index in held_out],
        progress=progress,
    )
    tests = _stacked([split.test for split in splits])
    with torch.no_grad():
        return vmap(objective.losses)(trained.params, tests)[:, 0]


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
