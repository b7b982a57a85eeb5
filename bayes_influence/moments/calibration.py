"""Variance factors: how far propagated variances are from those of sampled weights, found on a few examples.

A weight that is shared over positions makes the positions of a channel covary, and from the second layer on all units
of a layer covary through the weights below; the next layer adds them up coherently, and the diagonal rule loses exactly
that. One factor per layer and channel puts back what is lost on average.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from bayes_influence.data.arguments import as_call
from bayes_influence.moments.calibrated_norms import CalibratedNorm
from bayes_influence.moments.layers import FACTOR, BayesianLayer, is_calibrated, multiplied
from bayes_influence.moments.moments import VARIANCE_FLOOR, Moments
from bayes_influence.moments.passes import called_twice
from bayes_influence.moments.sampling import SAMPLES_AT_ONCE, Posterior, RunningMoments

FACTOR_DRAWS = 128
"""Draws of the weights behind the factors. The standard error of a factor is about sqrt(2 / 127) = 13 % of it, divided
by the root of how many examples and positions count as independent."""


def variance_factors(
    network: nn.Module,
    inputs: Tensor | Moments,
    params: Mapping[str, Tensor] | None = None,
    *,
    n_samples: int = FACTOR_DRAWS,
    generator: torch.Generator | None = None,
) -> dict[str, Float[Tensor, " channels"]]:
    """The variance factors of every layer at given parameters, by name: buffers of a network to be set.

    For a layer and a channel, the factor is kappa = (mean over examples and positions of the sampled variance of the
    layer's output) / (mean of the propagated one), the latter with the factors of all layers before already in place;
    so one pass of moments does for all layers. Same inputs, draws and parameters, same factors: with one generator seed
    they change with the parameters only. A layer with fixed inputs, whose rule is exact, has the factors 1, and so has
    a channel that does not vary. Layer and RMS norms over features have factors of their inputs, found likewise: sums
    of branches come in there.

    They are constants wherever the network is differentiated: an influence, a refit or a Hessian holds them fixed.

    Args:
        network: A network that `to_bayesian` made with `structure="calibrated"`, in evaluation mode; left as it is.
        inputs: Some hundred examples, fixed or random.
        params: Its parameters; the network's own if not given.
        n_samples: Draws of the weights.
        generator: Source of the draws; seeded with 0 if not given.

    Raises:
        ValueError: If the network is not calibrated, is in training mode, or a variance is not finite.
        UnsupportedOperationError: If a layer is called twice in one pass.
    """
    if not is_calibrated(network):
        raise ValueError(
            f"{type(network).__name__} has no variance factors; convert it with "
            "to_bayesian(..., structure='calibrated')"
        )
    twin = deepcopy(network)
    values = dict(params or network.named_parameters())
    with torch.no_grad():
        sampled = _sampled_variances(twin, inputs, values, n_samples, generator)
        found: dict[str, Tensor] = {}
        for path, layer in twin.named_modules():
            if isinstance(layer, BayesianLayer):
                layer.register_forward_hook(_correction(path, sampled, found), prepend=True)
            elif isinstance(layer, CalibratedNorm):
                layer.register_forward_pre_hook(_correction_before(path, sampled, found))
        ones = {name: torch.ones_like(value) for name, value in twin.named_buffers() if _is_factor(name)}
        functional_call(twin, {**values, **ones}, *as_call(inputs))
    return {**ones, **found}


def _is_factor(name: str) -> bool:
    return name.rpartition(".")[2] == FACTOR


def _sampled_variances(
    twin: nn.Module,
    inputs: Tensor | Moments,
    params: Mapping[str, Tensor],
    n_samples: int,
    generator: torch.Generator | None,
) -> dict[str, Float[Tensor, " channels"]]:
    """Variance of every layer's output over drawn weights, by path, the mean over all but the channels."""
    posterior = Posterior.of(twin, params)
    kinds = (BayesianLayer, CalibratedNorm)
    layers = {path: layer for path, layer in twin.named_modules() if isinstance(layer, kinds)}
    axes = {path: layer.channel_axis for path, layer in layers.items()}
    records: dict[str, Tensor] = {}
    for path, layer in layers.items():
        record = _record(path, records)
        if isinstance(layer, CalibratedNorm):
            before = partial(_first_of_inputs, record)
            posterior.network.get_submodule(path).register_forward_pre_hook(before)
        else:
            posterior.network.get_submodule(path).register_forward_hook(record, prepend=True)

    def outputs(weights: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
        records.clear()
        functional_call(posterior.network, weights, *as_call(x))
        return dict(records)

    running: dict[str, RunningMoments] = {}
    convolves = any(variance.ndim > 2 for variance in posterior.variances.values())
    at_once = 1 if convolves else SAMPLES_AT_ONCE
    for chunk in posterior.samples(inputs, n_samples, generator, outputs, at_once=at_once):
        for path, samples in chunk.items():
            running.setdefault(path, RunningMoments()).add(samples)
    return {path: _by_channel(part.moments.variance, axes[path]) for path, part in running.items()}


def _record(path: str, records: dict[str, Tensor]) -> Callable[[nn.Module, Any, Tensor], None]:
    def record(module: nn.Module, inputs: Any, output: Tensor) -> None:
        if path in records:
            raise called_twice(path)
        records[path] = output.clone()  # which an activation in place may overwrite

    return record


def _first_of_inputs(record: Callable[..., None], module: nn.Module, inputs: Any) -> None:
    record(module, inputs, inputs[0])


def _correction(
    path: str, sampled: Mapping[str, Tensor], found: dict[str, Tensor]
) -> Callable[[BayesianLayer, Any, Moments], Moments | None]:
    """A hook that finds a layer's factors, and hands on its output with them."""

    def correct(layer: BayesianLayer, inputs: Any, output: Moments) -> Moments | None:
        if not isinstance(inputs[0], Moments):
            return None
        factor = _factor(f"the output of layer {path!r}", output, sampled[path], layer.channel_axis)
        found[f"{path}.{FACTOR}" if path else FACTOR] = factor
        return multiplied(output, factor, layer.channel_axis)

    return correct


def _correction_before(
    path: str, sampled: Mapping[str, Tensor], found: dict[str, Tensor]
) -> Callable[[CalibratedNorm, Any], Any]:
    """A hook that finds the factors of a norm's inputs, and hands them on with these."""

    def correct(norm: CalibratedNorm, inputs: Any) -> Any:
        if not isinstance(inputs[0], Moments):
            return None
        factor = _factor(f"the input of {path!r}", inputs[0], sampled[path], norm.channel_axis)
        found[f"{path}.{FACTOR}" if path else FACTOR] = factor
        return multiplied(inputs[0], factor, norm.channel_axis)

    return correct


def _factor(what: str, moments: Moments, drawn: Tensor, channel_axis: int) -> Float[Tensor, " channels"]:
    propagated = _by_channel(moments.variance, channel_axis)
    if not (torch.isfinite(propagated).all() and torch.isfinite(drawn).all()):
        raise ValueError(
            f"{what} has variances that are not finite; start from a smaller initial_sigma, or from a trained network, "
            "and look at a smaller learning rate"
        )
    varies = (propagated > VARIANCE_FLOOR) & (drawn > VARIANCE_FLOOR)
    return torch.where(varies, drawn / propagated, 1.0)


def _by_channel(variance: Tensor, channel_axis: int) -> Float[Tensor, " channels"]:
    """The mean over all axes but one."""
    channels = variance.movedim(channel_axis, -1)
    return channels.reshape(-1, channels.shape[-1]).mean(0)
