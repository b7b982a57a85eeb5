"""What a training step does beside its value, found out by doing one: random numbers, buffers, examples that mix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bayes_influence.data.batch import Batch
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import Params
from bayes_influence.torch_internals import tree_map
from bayes_influence.training.steps import StepValue, seeded_noise


@dataclass(frozen=True)
class StepEffects:
    """What was seen.

    Attributes:
        draws: Whether random numbers were drawn.
        moves: Names of the buffers that a step changes, such as running statistics.
        mixes: Whether the loss of an example depends on the other examples of its batch.
        differs: Whether the value is another than in evaluation mode.
    """

    draws: bool
    moves: tuple[str, ...]
    mixes: bool
    differs: bool

    @property
    def alone(self) -> bool:
        """Whether members take turns, as each has noise or buffers of its own."""
        return self.draws or bool(self.moves)

    @property
    def as_evaluated(self) -> bool:
        """Whether training is minimising the objective as it is evaluated, and nothing else."""
        return not (self.alone or self.mixes or self.differs)


def watch_step(step: StepValue, objective: Objective, batch: Batch) -> StepEffects:
    """Takes the value of a step a few times and sees what else happens; generators and buffers are left as they were.

    No list of layers is asked: noise inside attention or in a function counts like a dropout layer, and a power
    iteration's vector like a running mean.

    Args:
        step: What a step minimises.
        objective: Whose step it is; where it stands is where the value is taken.
        batch: Examples as training takes them.

    Raises:
        ValueError: If the same step does not give the same value twice, or cannot be taken on a single example.
    """
    everything = batch.targets.new_ones(len(batch.targets), dtype=objective.dtype)
    moved = _copied(objective.buffers)
    try:
        with seeded_noise(0, objective.device), torch.no_grad():
            start = _generators(objective.device)
            value = step(objective.params, moved, batch, everything, 0.0)[0]
            draws = not all(map(torch.equal, start, _generators(objective.device)))
    except ValueError as error:
        if len(batch.targets) > 1:
            raise
        raise ValueError(
            f"the network cannot be trained on a batch of a single example ({error}): choose a batch size whose "
            f"batches, equally large up to one example, all have at least two"
        ) from error
    if not _close(value, _value(step, objective, batch, everything)):
        raise ValueError(
            "the same training step gave two different values: the network keeps something between calls that is no "
            "buffer, or draws random numbers from a generator other than torch's own; use `register_buffer` and "
            "torch's random numbers"
        )
    # Once more from elsewhere: running statistics that have arrived do not move where they are.
    elsewhere = {n: 1.25 * v + 0.125 if v.is_floating_point() else v for n, v in objective.buffers.items()}
    from_there = _copied(elsewhere)
    _value(step, objective, batch, everything, from_there)
    first = everything.clone()
    first[(len(first) + 1) // 2 :] = 0.0
    with seeded_noise(0, objective.device), torch.no_grad():
        evaluated = objective.value({**objective.params, **_copied(objective.buffers)}, batch, everything, 0.0)
    return StepEffects(
        draws=draws,
        moves=tuple(
            name
            for name, held in objective.buffers.items()
            if not (torch.equal(held, moved[name]) and torch.equal(elsewhere[name], from_there[name]))
        ),
        mixes=not _close(
            _value(step, objective, batch, first), _value(step, objective, _in_other_company(batch), first)
        ),
        differs=not _close(value, evaluated),
    )


def _value(
    step: StepValue, objective: Objective, batch: Batch, weights: Tensor, buffers: Params | None = None
) -> Tensor:
    """With the same random numbers at every call, from a copy of the objective's buffers unless others are given."""
    with seeded_noise(0, objective.device), torch.no_grad():
        held = _copied(objective.buffers) if buffers is None else buffers
        return step(objective.params, held, batch, weights, 0.0)[0]


def _in_other_company(batch: Batch) -> Batch:
    """The first half of the examples beside themselves."""
    size = len(batch.targets)
    half = (size + 1) // 2
    rows = torch.cat([torch.arange(half), torch.arange(size - half)]).to(batch.targets.device)
    return tree_map(lambda leaf: leaf[rows], batch)


def _copied(tensors: Params) -> Params:
    return {name: value.clone() for name, value in tensors.items()}


def _generators(device: torch.device) -> list[Tensor]:
    """The states of torch's generators that noise on a device may come from."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _close(one: Tensor, other: Tensor) -> bool:
    """Equal but for rounding; what is not finite is equal to itself."""
    tolerance = torch.finfo(one.dtype).eps ** 0.5
    return torch.allclose(one, other, rtol=tolerance, atol=tolerance * 1e-3, equal_nan=True)
