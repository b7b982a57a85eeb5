"""Bayesian layers: independent Gaussian weights and biases, N(mu, exp(rho)^2) each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bayes_influence.moments.covariance import check_memory, covariant_linear
from bayes_influence.moments.initial import InitialSigma
from bayes_influence.moments.joint import descend
from bayes_influence.moments.linear import gaussian_weights
from bayes_influence.moments.linear_maps import Affine, LinearMap
from bayes_influence.moments.moments import Approximation, Moments
from bayes_influence.moments.passes import Calls, parameter_in_pass

RHO = "_rho"
"""Suffix of the log standard deviation beside a mean: `weight` and `weight_rho`."""

FACTOR = "variance_factor"
"""The buffer of a calibrated layer, (channels,): what its rule's variances are multiplied by."""


class BayesianLayer(nn.Module, ABC):
    """A linear layer whose weights and biases are independent Gaussians, made from a deterministic one.

    Its parameters are `weight` and `bias` (the means mu, the deterministic layer's names) and `weight_rho` and
    `bias_rho` (log sigma), in this order; without a bias the two are None. The output is `Moments`, exact for an input
    that is fixed or has independent entries. Of the structure `"calibrated"` it has the buffer `variance_factor`, one
    number per channel by which that variance is multiplied; 1 until `variance_factors` has found better ones.

    Args:
        layer: The deterministic layer; its weights become the means.
        approximation: What the output carries on to the rules after it.
        initial_sigma: sigma at the start, from a weight and its fan-in.
        path: Where the layer stands in its network, for messages.
    """

    weight: Tensor
    bias: Tensor | None
    weight_rho: Tensor
    bias_rho: Tensor | None
    takes_factors = True
    """Whether it has variance factors in a calibrated network; a layer that only takes fixed inputs needs none."""

    def __init__(self, layer: Any, approximation: Approximation, initial_sigma: InitialSigma, path: str = "") -> None:
        super().__init__()
        self.approximation = approximation
        self.path = path
        self.fan_in = self.fan_in_of(layer)
        for name in ("weight", "bias"):
            self.register_parameter(name, _copied(getattr(layer, name, None)))
        for name in ("weight", "bias"):
            self.register_parameter(name + RHO, log_sigma(getattr(layer, name, None), initial_sigma, self.fan_in))
        if approximation.calibrated and self.takes_factors:
            self.register_buffer(FACTOR, layer.weight.detach().new_ones(self.n_channels(layer)))

    @staticmethod
    def fan_in_of(layer: Any) -> float:
        """Inputs of the deterministic layer that an output is a sum of, in the mean of its positions."""
        return layer.weight[0].numel()

    @staticmethod
    def n_channels(layer: Any) -> int:
        """Channels of the deterministic layer's output."""
        return len(layer.weight)

    @property
    def channel_axis(self) -> int:
        """Axis of the output's channels, counted from the end."""
        return -1

    @property
    @abstractmethod
    def linear_map(self) -> LinearMap:
        """The layer's operation, for given weights."""

    @abstractmethod
    def check_input(self, shape: torch.Size) -> None:
        """Refuses an input of the wrong shape.

        Raises:
            ValueError: Naming the layer, the shape it wants and the shape it got.
        """

    def check_dtype(self, x: Tensor | Moments) -> None:
        """Refuses an input of another dtype than the weights', unless autocast would cast it.

        Raises:
            TypeError: Naming the layer and both.
        """
        own: dict[str, Any] = self._parameters
        if x.dtype != own["weight"].dtype and not torch.is_autocast_enabled(x.device.type):
            raise TypeError(
                f"layer {self.path or type(self).__name__!r} has weights of {own['weight'].dtype}, got inputs of "
                f"{x.dtype}; convert one of them with .to(dtype)"
            )

    @abstractmethod
    def deterministic(self) -> nn.Module:
        """A deterministic layer with the means as its weights."""

    def prepared(self, x: Tensor | Moments) -> Tensor | Moments:
        """The input as `linear_map` takes it; padding that is not with zeros is done here."""
        return x

    def forward(self, x: Tensor | Moments) -> Moments:
        """Mean and variance of the layer's output, see `gaussian_weights`.

        Raises:
            ValueError: If the input has another shape than the layer takes.
            TypeError: If it has another dtype than the weights.
        """
        self.check_input(x.shape)
        own: dict[str, Any] = self._parameters
        weight, bias, weight_rho, bias_rho = (own[name] for name in ("weight", "bias", "weight_rho", "bias_rho"))
        approximation = self.approximation
        if not torch.compiler.is_compiling():
            self.check_dtype(x)
            calls = x.approximation.calls if isinstance(x, Moments) else Calls()
            approximation = replace(approximation, calls=calls.through(self.path, weight))
        moments = self.propagated(self.prepared(x), weight, bias, weight_rho, bias_rho, approximation)
        factor = self._buffers.get(FACTOR)
        return moments if factor is None else multiplied(moments, factor, self.channel_axis)

    def propagated(
        self,
        x: Tensor | Moments,
        weight: Tensor,
        bias: Tensor | None,
        weight_rho: Tensor,
        bias_rho: Tensor | None,
        approximation: Approximation,
    ) -> Moments:
        """The layer's rule for the prepared input, without factors."""
        return gaussian_weights(self.linear_map, x, weight, bias, weight_rho, bias_rho, approximation)

    def __getattr__(self, name: str) -> Any:
        value: Any = super().__getattr__(name)
        return (
            parameter_in_pass(self, self.path, name, value)
            if name in ("weight", "bias") and value is not None
            else value
        )

    def _wrong_shape(self, expected: str, got: torch.Size) -> ValueError:
        return ValueError(f"layer {self.path or type(self).__name__!r} takes inputs {expected}, got {tuple(got)}")

    def _with_means(self, layer: nn.Module) -> nn.Module:
        layer.register_parameter("weight", _copied(self.weight))
        layer.register_parameter("bias", _copied(self.bias))
        return layer.train(self.training)


class BayesianLinear(BayesianLayer):
    """`nn.Linear` with Gaussian weights and biases."""

    def __init__(
        self, layer: nn.Linear, approximation: Approximation, initial_sigma: InitialSigma, path: str = ""
    ) -> None:
        super().__init__(layer, approximation, initial_sigma, path)
        self.in_features = layer.in_features
        self.out_features = layer.out_features

    @property
    def linear_map(self) -> LinearMap:
        """W x + b."""
        return Affine()

    def propagated(
        self,
        x: Tensor | Moments,
        weight: Tensor,
        bias: Tensor | None,
        weight_rho: Tensor,
        bias_rho: Tensor | None,
        approximation: Approximation,
    ) -> Moments:
        """As of every layer; with the covariance of the outputs, where that is followed and there is one."""
        if isinstance(x, Moments) and approximation.covariant:
            check_memory(self.path, x, weight)
            return covariant_linear(x, weight, bias, weight_rho, bias_rho, approximation)
        return super().propagated(x, weight, bias, weight_rho, bias_rho, approximation)

    def check_input(self, shape: torch.Size) -> None:
        """Wants (..., in_features)."""
        if not shape or shape[-1] != self.in_features:
            raise self._wrong_shape(f"of shape (..., {self.in_features})", shape)

    def deterministic(self) -> nn.Module:
        """`nn.Linear` with the means."""
        return self._with_means(
            nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        )

    def extra_repr(self) -> str:
        """Sizes and approximation, as they are printed."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, {self.approximation}"


def multiplied(moments: Moments, factor: Float[Tensor, " channels"], channel_axis: int) -> Moments:
    """Moments whose variances are multiplied by a factor per channel; the axis is counted from the end."""
    factors = factor.reshape(-1, *[1] * (-channel_axis - 1))
    covariance = None if moments.covariance is None else moments.covariance.scaled(factors.sqrt())
    result = Moments(moments.expectation, moments.variance * factors, moments.approximation, covariance)
    return descend(result, moments, factors.sqrt)


def is_bayesian(network: nn.Module) -> bool:
    """Whether a network has a Bayesian layer, so that its outputs are `Moments` and sigmas are among its parameters."""
    return any(isinstance(module, BayesianLayer) for module in network.modules())


def is_calibrated(network: nn.Module) -> bool:
    """Whether a network's layers have variance factors."""
    return any(isinstance(module, BayesianLayer) and FACTOR in module._buffers for module in network.modules())


def _copied(parameter: Tensor | None) -> nn.Parameter | None:
    if parameter is None:
        return None
    return nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)


def log_sigma(mean: Tensor | None, initial_sigma: InitialSigma, fan_in: float) -> nn.Parameter | None:
    """The log standard deviations beside means at the start, frozen where these are; None of None.

    Raises:
        ValueError: If a sigma is not positive and finite, or of another shape.
    """
    if mean is None:
        return None
    sigma = initial_sigma(mean.detach(), fan_in)
    if sigma.shape != mean.shape or not bool((sigma > 0).all() & torch.isfinite(sigma).all()):
        raise ValueError(
            f"initial_sigma must return positive, finite values of shape {tuple(mean.shape)}, got shape "
            f"{tuple(sigma.shape)} with minimum {float(sigma.min())}"
        )
    return nn.Parameter(sigma.log(), requires_grad=mean.requires_grad)
