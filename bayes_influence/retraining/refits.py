"""`Refits`: networks after every removal, and what a removal did to predictions."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.func import vmap

from bayes_influence.data.dataset import Batch, Dataset
from bayes_influence.objectives.head import Head, head_params
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import Params
from bayes_influence.objectives.reweighting import Removals
from bayes_influence.retraining.problem import ENTRIES, numbers_per_example, stacked_features
from bayes_influence.torch_internals import tree_map
from bayes_influence.training.fits import Fits

logger = logging.getLogger(__name__)

DRIFT_FLAG = 1.0
"""Control drift, in units of the median effect, from which what retraining measures is mostly its own drift."""


@dataclass(frozen=True, eq=False, repr=False)
class Refits:
    """Parameters after every removal.

    What a removal does is the difference to the control, never to the parameters that the refits started from.

    Attributes:
        objective: The problem that was refitted: of the last layer on its features, or of the whole network.
        params: Stacked parameters (S, k+1, ...): S seeds, first the control, then one refit per removal.
        removals: What was removed.
        gradient_norms: (S, k+1) norm of the gradient of what was minimised, where the refits ended.
        converged: (S, k+1) whether that is within the tolerance asked for; a fixed schedule asks for none.
        watched: (S, k+1, epochs, t) losses of the watched examples before every step of a training, if any were.
    """

    objective: Objective
    params: Params
    removals: Removals
    gradient_norms: Float[Tensor, "S k_plus_1"]
    converged: Bool[Tensor, "S k_plus_1"]
    watched: Float[Tensor, "S k_plus_1 epochs t"] | None = None

    def __repr__(self) -> str:
        members, refits = self.gradient_norms.shape
        return (
            f"Refits({members} x {refits - 1} removals and a control each, {int(self.converged.sum())} of "
            f"{self.converged.numel()} converged, worst gradient norm {float(self.gradient_norms.max()):.1e})"
        )


def losses_after(fits: Fits, refits: Refits, test: Dataset) -> Float[Tensor, "S k_plus_1 t"]:
    """Loss of every test example under every refit (index 0 of the second axis is the control)."""
    return _under_every_refit(fits, refits, test, refits.objective.losses)


def outputs_after(fits: Fits, refits: Refits, data: Dataset) -> Any:
    """Outputs of every refit on every example: leading axes (S, k+1, n); a tensor of logits, or `Moments`."""
    objective = refits.objective
    return _under_every_refit(fits, refits, data, lambda params, batch: objective.outputs(params, batch.inputs))


def _under_every_refit(fits: Fits, refits: Refits, data: Dataset, function: Callable[[Params, Batch], Any]) -> Any:
    """A function of every refit and all examples, in turns over the examples."""
    is_head = isinstance(refits.objective.network, Head)
    params = head_params(fits.objective, refits.params) if is_head else refits.params
    members = next(iter(params.values())).shape[:2].numel()

    def of_inputs(one: Params, inputs: Any, batch: Batch) -> Any:
        return function(one, replace(batch, inputs=inputs))

    of_seed = vmap(of_inputs, in_dims=(0, None, None))
    everywhere = vmap(of_seed, in_dims=(0, 0 if is_head else None, None))
    parts = []
    with torch.no_grad():
        for batch in data.batches(max(1, ENTRIES // (members * numbers_per_example(data.inputs)))):
            seen = stacked_features(fits.objective, fits.params, batch.inputs) if is_head else batch.inputs
            parts.append(everywhere(params, seen, batch))
    return tree_map(lambda *leaves: torch.cat(leaves, dim=2), *parts)


def loss_changes(fits: Fits, refits: Refits, test: Dataset) -> Float[Tensor, "S k t"]:
    """True change of every test loss when an example is removed: refit minus control."""
    losses = losses_after(fits, refits, test)
    return losses[:, 1:] - losses[:, :1]


@dataclass(frozen=True, eq=False)
class ControlDrift:
    """What retraining does although nothing is removed.

    Attributes:
        drift: (S, t) loss under the control minus loss under the fit.
        relative: (S, t) its size over the median size of the k effects; infinite where those vanish and it does not.
    """

    drift: Float[Tensor, "S t"]
    relative: Float[Tensor, "S t"]

    @property
    def exceeds_effects(self) -> Bool[Tensor, "S t"]:
        """Where the control drifts at least as far as a typical removal moves the loss."""
        return self.relative >= DRIFT_FLAG


def control_drift(fits: Fits, refits: Refits, test: Dataset, *, warn: bool = True) -> ControlDrift:
    """How far the control moved the test losses from where the fit had them.

    The effects have the control's drift subtracted. Drift as large as the effects still means that the fit was no
    minimum, so that an estimate at the fit and the refits speak of different networks.

    Args:
        fits: Where the refits started, or what they repeat.
        refits: With their control.
        test: Test examples.
        warn: Whether a warning is logged where the drift is as large as the effects.
    """
    after = losses_after(fits, refits, test)
    with torch.no_grad():
        before = vmap(fits.objective.losses, in_dims=(0, None))(fits.params, test.batch())
    drift = after[:, 0] - before
    typical = (after[:, 1:] - after[:, :1]).abs().median(dim=1).values
    relative = torch.where(drift == 0, 0.0, drift.abs() / typical)
    found = ControlDrift(drift, relative)
    if warn and found.exceeds_effects.any():
        logger.warning(
            "%s: retraining with nothing removed moves the loss by up to %.2g times what a typical removal does "
            "(%d of %d seeds and test examples); train longer, or refit from scratch",
            *(fits.scheme.name, float(relative.max()), int(found.exceeds_effects.sum()), relative.numel()),
        )
    return found


def repeated(value: Any, times: int) -> Any:
    """Every member `times` times over, along the leading axis of every tensor in a nesting."""
    return tree_map(lambda leaf: leaf.repeat_interleave(times, dim=0), value)


def per_seed(stacked: Params, seeds: int) -> Params:
    """Parameters (S (k+1), ...) as (S, k+1, ...)."""
    return {name: value.unflatten(0, (seeds, -1)) for name, value in stacked.items()}
