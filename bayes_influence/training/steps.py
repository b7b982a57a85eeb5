"""One step's objective and gradients for every member: all at once, or one at a time with its own buffers and noise."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from bayes_influence.data.arguments import as_call
from bayes_influence.data.batch import Batch
from bayes_influence.moments.layers import is_bayesian
from bayes_influence.objectives.criteria import read_outputs
from bayes_influence.objectives.objective import Likelihood, Objective
from bayes_influence.objectives.parameters import Flattening, Params
from bayes_influence.objectives.predictive import Predictive
from bayes_influence.objectives.ways import first_way
from bayes_influence.torch_internals import AnyBatchNorm, tree_map

logger = logging.getLogger(__name__)

StepValue = Callable[[Params, Params, Batch, "Tensor | None", "float | Tensor"], tuple[Tensor, Tensor]]
"""What a step minimises, for one member: (params, buffers, batch, data weights, regulariser weight) -> (J over the
batch, number of right predictions). Buffers are updated in place."""


def step_objective(objective: Objective, held: Collection[str] = ()) -> StepValue:
    """The objective with its network in training mode: dropout drops, batch norm takes the batch's statistics.

    A Bayesian network's batch norms keep their running statistics: a batch's own would tie its examples together. Its
    dropout is a moment rule and draws nothing.

    Args:
        objective: Left as it is.
        held: Buffers that stay what they are: the modules that have them are in evaluation mode.
    """
    network = copy.deepcopy(objective.network).train()
    bayesian = is_bayesian(network)
    still = {name.rpartition(".")[0] for name in held}
    for path, module in network.named_modules():
        if path in still or (bayesian and isinstance(module, AnyBatchNorm)):
            module.training = False
    if bayesian:
        _warn_of_fresh_norms(objective)

    def value(
        params: Params, buffers: Params, batch: Batch, weights: Tensor | None, regulariser_weight: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        state = {**params, **buffers}
        outputs = read_outputs(objective.likelihood, functional_call(network, state, *as_call(batch.inputs)))
        for name, buffer in buffers.items():
            if state[name] is not buffer:  # a module that assigns its buffer anew, and does not write into it
                buffer.copy_(state[name].detach())
        losses = objective.losses_of(outputs, batch)
        weighted = losses if weights is None else weights * losses
        right = right_predictions(objective.likelihood, outputs, batch.targets)
        return weighted.mean() + regulariser_weight * objective.regulariser(params), right

    return value


def _warn_of_fresh_norms(objective: Objective) -> None:
    """Says which batch norms of a Bayesian network have never seen a batch, and so only multiply and add."""
    fresh = [
        path
        for path, module in objective.network.named_modules()
        if isinstance(module, AnyBatchNorm)
        and module.num_batches_tracked is not None
        and not objective.buffers[f"{path}.num_batches_tracked".lstrip(".")].any()
    ]
    if fresh:
        logger.warning(
            "%s: no batch was seen, and a Bayesian network keeps the running statistics that it starts with; start "
            "from a trained deterministic network (--warm-start RUN, or to_bayesian of it)",
            ", ".join(fresh),
        )


def right_predictions(likelihood: Likelihood, outputs: Any, targets: Tensor) -> Float[Tensor, ""]:
    """How many predictions are right; NaN for real targets, and where the likelihood does not say what outputs mean."""
    if not isinstance(likelihood, Predictive):
        return torch.full((), torch.nan, device=targets.device)
    return likelihood.hits(outputs, targets).sum().float()


def member_gradients(
    network: nn.Module,
    step: StepValue,
    layout: Flattening,
    flat: Float[Tensor, "E P"],
    buffers: Params,
    batch: Batch,
    weights: Float[Tensor, "E B"] | None,
    regulariser_weight: float,
    seeds: list[int],
    *,
    alone: bool,
) -> tuple[Float[Tensor, "E P"], Float[Tensor, " E"], Float[Tensor, " E"]]:
    """Gradients, objectives and numbers of right predictions of every member on its own batch.

    Convolutions with a weight of their own per member run slower together than one after the other, so networks that
    have some take turns, too, and so do those that torch cannot batch (see `first_way`).

    Args:
        network: Whose step it is.
        step: What is differentiated.
        layout: Order of the parameters in `flat`.
        flat: Stacked parameters.
        buffers: Stacked buffers, updated in place.
        batch: With a leading member axis.
        weights: Data weights of the batches' examples.
        regulariser_weight: Of the regulariser.
        seeds: Of each member's random numbers in this step.
        alone: Whether members take turns, because a step draws random numbers or moves buffers.
    """
    given = (step, layout, flat, buffers, batch, weights, regulariser_weight)
    if alone or len(flat) == 1 or any(len(shape) > 2 for shape in layout.shapes):
        return _in_turns(*given, seeds if alone else None)
    return first_way(network, "gradients", lambda: _together(*given), lambda: _in_turns(*given, None))


def _in_turns(
    step: StepValue,
    layout: Flattening,
    flat: Float[Tensor, "E P"],
    buffers: Params,
    batch: Batch,
    weights: Float[Tensor, "E B"] | None,
    regulariser_weight: float,
    seeds: list[int] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    results = []
    for index in range(len(flat)):
        own = tree_map(lambda leaf, index=index: leaf[index], batch)
        leaves = {name: view.detach().requires_grad_() for name, view in layout.unflatten(flat[index]).items()}
        mine = {name: buffer[index] for name, buffer in buffers.items()}
        with torch.enable_grad() if seeds is None else seeded_noise(seeds[index], flat.device):
            value, right = step(leaves, mine, own, None if weights is None else weights[index], regulariser_weight)
            gradients = torch.autograd.grad(value, list(leaves.values()))
        results.append((torch.cat([gradient.reshape(-1) for gradient in gradients]), value.detach(), right))
    gradient, value, right = (torch.stack(parts) for parts in zip(*results, strict=True))
    return gradient, value, right


def _together(
    step: StepValue,
    layout: Flattening,
    flat: Float[Tensor, "E P"],
    buffers: Params,
    batch: Batch,
    weights: Float[Tensor, "E B"] | None,
    regulariser_weight: float,
) -> tuple[Tensor, Tensor, Tensor]:
    def value(params: Params, own: Params, data: Batch, data_weights: Tensor | None) -> tuple[Tensor, Tensor]:
        return step(params, own, data, data_weights, regulariser_weight)

    of_all = vmap(grad_and_value(value, has_aux=True), in_dims=(0, 0, 0, None if weights is None else 0))
    gradients, (values, right) = of_all(layout.unflatten(flat), buffers, batch, weights)
    return layout.flatten(gradients), values, right


@contextmanager
def seeded_noise(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers that follow from a seed, with gradients on; the caller's generators are left as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        torch.manual_seed(seed)
        yield


def derived_seed(*parts: int) -> int:
    """One seed out of several numbers, such as a member's seed and a step: equal parts, equal seed."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]) >> 1
