"""`Refits`: networks after every removal, and what a removal did to predictions."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.func import vmap

from bayes_influence.arguments import kind_of
from bayes_influence.data.batch import Batch
from bayes_influence.data.dataset import Dataset
from bayes_influence.objectives.company import ENTRIES, numbers_per_example
from bayes_influence.objectives.members import Members
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import Params
from bayes_influence.objectives.reduction import Reduction
from bayes_influence.objectives.reweighting import Removals
from bayes_influence.objectives.ways import first_way
from bayes_influence.torch_internals import tree_map

logger = logging.getLogger(__name__)

DRIFT_FLAG = 1.0
"""Control drift, in units of the median effect, from which what retraining measures is mostly its own drift."""


@dataclass(frozen=True, eq=False, repr=False)
class Refits:
    """Selected parameters after every removal, and buffers that were trained with them; all others are the networks'.

    What a removal does is the difference to the control, never to the parameters that the refits started from.

    Attributes:
        reduction: The networks that were refitted, E of them, and the problem that was: last layers, or whole networks.
        params: Stacked selected parameters (E, k+1, ...): first the control, then one refit per removal.
        removals: What was removed.
        gradient_norms: (E, k+1) norm of the gradient of what was minimised, where the refits ended.
        converged: (E, k+1) whether that is within the tolerance asked for; a fixed schedule asks for none.
        buffers: Stacked buffers (E, k+1, ...) that a refit moved, such as running statistics; none where they are held.
        watched: (E, k+1, epochs, t) losses of the watched examples before every step of a training, if any were.
    """

    reduction: Reduction
    params: Params
    removals: Removals
    gradient_norms: Float[Tensor, "E k_plus_1"]
    converged: Bool[Tensor, "E k_plus_1"]
    buffers: Params = field(default_factory=dict)
    watched: Float[Tensor, "E k_plus_1 epochs t"] | None = None

    @property
    def members(self) -> Members:
        """The networks that were refitted."""
        return self.reduction.members

    @property
    def state(self) -> Params:
        """Everything in which refits differ: selected parameters and moved buffers, (E, k+1, ...)."""
        return {**self.params, **self.buffers}

    def at(self, index: int, refit: int) -> Objective:
        """The whole network `index` after a refit: 0 is the control, k the k-th removal."""
        one = self.members.at(index)
        own = ({name: value[index, refit] for name, value in part.items()} for part in (self.params, self.buffers))
        params, buffers = own
        return one.at({**one.params, **params}, buffers)

    def __repr__(self) -> str:
        members, refits = self.gradient_norms.shape
        return (
            f"Refits({members} x {refits - 1} removals and a control each, {int(self.converged.sum())} of "
            f"{self.converged.numel()} converged, worst gradient norm {float(self.gradient_norms.max()):.1e})"
        )


def losses_after(refits: Refits, test: Dataset) -> Float[Tensor, "E k_plus_1 t"]:
    """Loss of every test example under every refit (index 0 of the second axis is the control)."""
    return _under_each(refits, refits.state, test, _losses)


def outputs_after(refits: Refits, data: Dataset) -> Any:
    """Outputs of every refit on every example: leading axes (E, k+1, n); a tensor of logits, or `Moments`."""
    return _under_each(refits, refits.state, data, _outputs)


def _losses(objective: Objective, state: Params, batch: Batch) -> Tensor:
    return objective.losses(state, batch)


def _outputs(objective: Objective, state: Params, batch: Batch) -> Any:
    return objective.outputs(state, batch.inputs)


def _under_each(
    refits: Refits, states: Params, data: Dataset, function: Callable[[Objective, Params, Batch], Any]
) -> Any:
    """A function of states (E, r, ...) and examples, in turns over these: of last layers where they pass so."""
    reduction = refits.reduction
    # What a last layer receives is another thing under every refit that moved its network's buffers.
    features = None if refits.buffers else reduction.features_of(data)
    problem = reduction.members if features is None else reduction.problem
    objective = problem.objective
    held = {name: value for name, value in problem.state.items() if name not in states}

    def of_one(own: Params, fixed: Params, inputs: Any, rest: Batch) -> Any:
        return function(objective, {**fixed, **own}, replace(rest, inputs=inputs))

    of_network = vmap(of_one, in_dims=(0, None, None, None))
    everywhere = vmap(of_network, in_dims=(0, 0, None if features is None else 0, None))
    axes = next(iter(states.values())).shape[:2]

    def one_by_one(states: Params, held: Params, inputs: Any, rest: Batch) -> Any:
        found = []
        for network, refit in product(*map(range, axes)):
            seen = inputs if features is None else _row(inputs, network)
            found.append(of_one(_row(states, network, refit), _row(held, network), seen, rest))
        return tree_map(lambda *leaves: torch.stack(leaves).unflatten(0, axes), *found)

    size = max(1, ENTRIES // (axes.numel() * numbers_per_example(data.example.inputs)))
    whole = objective.fitting(data.batch())
    parts = []
    with torch.no_grad():
        for start in range(0, len(data), size):
            rows = slice(start, start + size)
            part = tree_map(lambda leaf, rows=rows: leaf[rows], whole)
            inputs = part.inputs
            if features is not None:
                inputs = tree_map(lambda leaf, rows=rows: leaf[:, rows], features)
            given = states, held, inputs, replace(part, inputs=())
            ways = partial(everywhere, *given), partial(one_by_one, *given)
            parts.append(first_way(objective.network, "losses", *ways))
    return tree_map(lambda *leaves: torch.cat(leaves, dim=2), *parts)


def _row(stacked: Any, *index: int) -> Any:
    """One row of every tensor in a nesting."""
    return tree_map(lambda leaf: leaf[index], stacked)


def loss_changes(refits: Refits, test: Dataset) -> Float[Tensor, "E k t"]:
    """True change of every test loss when an example is removed: refit minus control.

    Raises:
        TypeError: If these are no refits, or no test examples.
    """
    if not isinstance(refits, Refits):
        raise TypeError(f"loss changes are of Refits, got {kind_of(refits)}; take what a protocol's refit(...) returns")
    losses = losses_after(refits, test)
    return losses[:, 1:] - losses[:, :1]


@dataclass(frozen=True, eq=False)
class ControlDrift:
    """What retraining does although nothing is removed.

    Attributes:
        drift: (E, t) loss under the control minus loss under the fit.
        relative: (E, t) its size over the median size of the k effects; infinite where those vanish and it does not.
    """

    drift: Float[Tensor, "E t"]
    relative: Float[Tensor, "E t"]

    @property
    def exceeds_effects(self) -> Bool[Tensor, "E t"]:
        """Where the control drifts at least as far as a typical removal moves the loss."""
        return self.relative >= DRIFT_FLAG


def control_drift(refits: Refits, test: Dataset, *, warn: bool = True) -> ControlDrift:
    """How far the control moved the test losses from where the fit had them.

    The effects have the control's drift subtracted. Drift as large as the effects still means that the fit was no
    minimum, so that an estimate at the fit and the refits speak of different networks.

    Args:
        refits: With their control.
        test: Test examples.
        warn: Whether a warning is logged where the drift is as large as the effects.
    """
    members = refits.members
    shared = {name: value.expand(len(members), *value.shape) for name, value in members.objective.buffers.items()}
    fit = {**shared, **members.state}
    together = {name: torch.cat([fit[name].unsqueeze(1), value], dim=1) for name, value in refits.state.items()}
    losses = _under_each(refits, together, test, _losses)
    before, after = losses[:, 0], losses[:, 1:]
    drift = after[:, 0] - before
    typical = (after[:, 1:] - after[:, :1]).abs().median(dim=1).values
    relative = torch.where(drift == 0, 0.0, drift.abs() / typical)
    found = ControlDrift(drift, relative)
    if warn and found.exceeds_effects.any():
        logger.warning(
            "%s: retraining with nothing removed moves the loss by up to %.2g times what a typical removal does "
            "(%d of %d networks and test examples); train longer, or refit from scratch",
            *(refits.members.labels[0], float(relative.max()), int(found.exceeds_effects.sum()), relative.numel()),
        )
    return found
