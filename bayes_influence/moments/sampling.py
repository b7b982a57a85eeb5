"""Weights drawn from the posterior, and what the deterministic network does with them: the referee of moments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm.auto import tqdm

from bayes_influence.data.arguments import as_call
from bayes_influence.moments.convert import to_deterministic
from bayes_influence.moments.layers import RHO, is_bayesian
from bayes_influence.moments.moments import Moments
from bayes_influence.moments.supported import DROPOUTS, NORMALISATIONS
from bayes_influence.moments.unfolded import UnfoldedAttention

SAMPLES_AT_ONCE = 16
"""Weight draws whose activations are in memory together."""


_MODE_DEPENDENT = frozenset({*DROPOUTS, *NORMALISATIONS})


def _depends_on_mode(module: nn.Module) -> bool:
    return type(module) in _MODE_DEPENDENT or (isinstance(module, UnfoldedAttention) and module.dropout > 0)


def check_ready(network: nn.Module) -> None:
    """Refuses a network that cannot predict.

    Raises:
        ValueError: If it has no Bayesian layer, or dropout or normalisation in training mode.
    """
    if not is_bayesian(network):
        raise ValueError(f"{type(network).__name__} has no Bayesian layer; convert it with to_bayesian first")
    training = [path for path, module in network.named_modules() if module.training and _depends_on_mode(module)]
    if training:
        raise ValueError(f"{training[0]!r} is in training mode; call .eval() on the network before it predicts")


@dataclass(frozen=True, eq=False)
class Posterior:
    """The deterministic network behind a Bayesian one, and its Gaussian weights.

    Attributes:
        network: The deterministic network, in evaluation mode.
        means: Parameters that it takes, at their means.
        variances: sigma^2 of those that are random.
    """

    network: nn.Module
    means: dict[str, Tensor]
    variances: dict[str, Tensor]

    @classmethod
    def of(cls, network: nn.Module, params: Mapping[str, Tensor] | None = None) -> Posterior:
        """The posterior at `params`, at the network's own parameters if not given.

        Raises:
            ValueError: If the network has no Bayesian layer, or has dropout or normalisation in training mode.
        """
        check_ready(network)
        deterministic = to_deterministic(network).eval()
        values = {name: p.detach() for name, p in (params or dict(network.named_parameters())).items()}
        means = {name: value for name, value in values.items() if not name.endswith(RHO)}
        variances = {name: torch.exp(2 * values[name + RHO]) for name in means if name + RHO in values}
        return cls(deterministic, means, variances)

    def draw(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draws parameters, stacked on a leading axis of length n; the same whatever the n they are asked for in."""
        draws = [
            {name: _normal(variance, generator) * variance.sqrt() for name, variance in self.variances.items()}
            for _ in range(n)
        ]
        stacked = {name: torch.stack([draw[name] for draw in draws]) for name in self.variances}
        return {
            name: mean + stacked[name] if name in stacked else mean.expand(n, *mean.shape)
            for name, mean in self.means.items()
        }

    def samples(
        self,
        inputs: Any,
        n_samples: int,
        generator: torch.Generator | None,
        function: Callable[[dict[str, Tensor], Any], Any] | None = None,
        progress: bool = False,
        at_once: int = SAMPLES_AT_ONCE,
    ) -> Iterator[Any]:
        """What the network, or a function of drawn parameters and inputs, returns: at most so many draws at a time.

        Args:
            inputs: Fixed inputs, `Arguments` among them, or `Moments` that are drawn as well.
            n_samples: Number of draws.
            generator: Source of the draws; seeded with 0 if not given.
            function: `(params, inputs) -> outputs`; the network's outputs if not given.
            progress: Shows a bar.
            at_once: Draws in a pass; convolutions of large batches are faster one by one.

        Yields:
            Outputs with a leading axis of draws.

        Raises:
            ValueError: If there are fewer than two samples.
        """
        if n_samples < 2:
            raise ValueError(f"n_samples must be at least 2 to have a variance, got {n_samples}")
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        call = function or (lambda params, x: functional_call(self.network, params, *as_call(x)))
        with tqdm(total=n_samples, desc="weight samples", disable=None if progress else True) as bar:
            for start in range(0, n_samples, at_once):
                size = min(at_once, n_samples - start)
                params = self.draw(size, generator)
                if isinstance(inputs, Moments):
                    noise = torch.stack([_normal(inputs.variance, generator) for _ in range(size)])
                    drawn, axis = inputs.expectation + inputs.variance.sqrt() * noise, 0
                else:
                    drawn, axis = inputs, None
                with sdpa_kernel(SDPBackend.MATH):  # torch cannot batch the others
                    outputs = vmap(call, in_dims=(0, axis))(params, drawn)
                yield outputs
                bar.update(size)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=generator.device, dtype=like.dtype).to(like.device)


@dataclass
class RunningMoments:
    """Mean and variance of samples that come in pieces (Chan, Golub, LeVeque 1983)."""

    count: int = 0
    mean: Tensor = field(default_factory=lambda: torch.zeros(()))
    squares: Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, samples: Tensor) -> None:
        """Takes in samples on a leading axis."""
        size, mean = len(samples), samples.mean(0)
        total = self.count + size
        shift = mean - self.mean
        self.squares = self.squares + (samples - mean).square().sum(0) + shift.square() * (self.count * size / total)
        self.mean = self.mean + shift * (size / total)
        self.count = total

    @property
    def moments(self) -> Moments:
        """Mean and unbiased variance so far."""
        return Moments(self.mean, self.squares / (self.count - 1))
