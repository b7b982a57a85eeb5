"""`moment_check`: propagated moments against sampled weights, layer by layer, on one's own network and data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from itertools import chain, count
from math import log
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import functional_call

from bayes_influence.data.arguments import as_call
from bayes_influence.moments.moments import VARIANCE_FLOOR, Moments
from bayes_influence.moments.sampling import Posterior, RunningMoments

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class LayerAgreement:
    """How the propagated moments of one module's output agree with those of sampled weights.

    Attributes:
        path: Where the module stands in the network; a second call of the same module is marked `path (call 2)`.
        module: Its type.
        mean_error: Root mean square of propagated minus sampled means, over that of the sampled standard deviations.
        upper_mean_error: Magnitude of (propagated - sampled mean) / sampled standard deviation that a tenth of the
            entries exceeds.
        variance_ratio: Sum of the propagated over the sum of the sampled variances.
        lower_ratio: The entries' ratio of variances that a tenth of them stays below.
        upper_ratio: The ratio that a tenth of them exceeds.
    """

    path: str
    module: str
    mean_error: float
    upper_mean_error: float
    variance_ratio: float
    lower_ratio: float
    upper_ratio: float


@dataclass(frozen=True)
class MomentCheck:
    """Agreement of every module's output, in the order of the forward pass.

    A module that hands on what another returned, as a container its last child's output, is listed once.

    Attributes:
        layers: One entry per call of a module.
        n_samples: Weight draws behind the sampled moments. What sampling alone makes of perfect agreement: a mean
            error of 1 / sqrt(n_samples).
    """

    layers: tuple[LayerAgreement, ...]
    n_samples: int

    @property
    def noise(self) -> float:
        """The mean error of perfect agreement, 1 / sqrt(n_samples)."""
        return self.n_samples**-0.5

    @property
    def steepest(self) -> tuple[LayerAgreement | None, LayerAgreement]:
        """The module whose ratio of variances is furthest from that of the module before it, and that one before.

        What its rule, or an operation between the two, neglects is the largest neglect of the network. None stands for
        the inputs, whose variances are known.
        """
        pairs: list[tuple[LayerAgreement | None, LayerAgreement]] = list(
            zip([None, *self.layers], self.layers, strict=False)
        )
        return max(pairs, key=lambda pair: abs(_log_ratio(pair[1]) - _log_ratio(pair[0])))

    @property
    def summary(self) -> str:
        """One line: the ratio of variances at the output, and where it changes most."""
        before, at = self.steepest
        start = 1.0 if before is None else before.variance_ratio
        return (
            f"propagated variances are {self.layers[-1].variance_ratio:.2f} of those of sampled weights at the output, "
            f"mean error {self.layers[-1].mean_error:.2f} deviations; most is lost or added at {at.path!r} "
            f"({at.module}), where the ratio goes from {start:.2f} to {at.variance_ratio:.2f}"
        )

    def to_frame(self) -> pd.DataFrame:
        """One row per module, columns as in `LayerAgreement`."""
        return pd.DataFrame([vars(layer) for layer in self.layers])

    def plot(self) -> Figure:
        """Mean error and variance ratio by module, with the entries' range and the level of the sampling noise."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(2.5 + 0.6 * len(self.layers), 6), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True)
        frame = self.to_frame()
        at = range(len(frame))
        upper.plot(at, frame["mean_error"], "o-", label="root mean square")
        upper.plot(at, frame["upper_mean_error"], ".", color="tab:gray", label="exceeded by 10 % of the entries")
        upper.axhline(self.noise, linestyle=":", color="black", label="sampling noise")
        upper.set_ylabel("error of the mean\n(standard deviations)")
        upper.set_yscale("log")
        upper.legend()
        lower.plot(at, frame["variance_ratio"], "o-", label="of the sums")
        lower.fill_between(at, frame["lower_ratio"], frame["upper_ratio"], alpha=0.2, label="of 80 % of the entries")
        lower.axhline(1.0, linestyle=":", color="black")
        lower.set_ylabel("propagated / sampled\nvariance")
        lower.set_yscale("log")
        lower.set_xticks(list(at), [f"{layer.path} {layer.module}" for layer in self.layers], rotation=90)
        lower.legend()
        return figure


def moment_check(
    network: nn.Module,
    inputs: Any,
    *,
    params: Mapping[str, Tensor] | None = None,
    n_samples: int = 1000,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> MomentCheck:
    """Compares propagated moments with those of sampled weights at the output of every module.

    The samples run the deterministic network, so the comparison shows what the rules cost: neglected covariances,
    linearised activations. Memory is the activations of `SAMPLES_AT_ONCE` draws, so a few dozen examples are plenty.
    Entries that do not vary in the samples (a ReLU that is always off) have no part in the quantiles.

    Args:
        network: A network that `to_bayesian` made, in evaluation mode.
        inputs: A batch, fixed or random, or `Arguments` of fixed ones.
        params: Its parameters; the network's own if not given.
        n_samples: Number of weight draws.
        generator: Source of the draws; seeded with 0 if not given.
        progress: Shows a bar.

    Raises:
        ValueError: If the network is not Bayesian or in training mode, there are fewer than two samples, or the
            output of a module does not vary.
    """
    posterior, twin = Posterior.of(network, params), deepcopy(network)
    records: dict[str, Any] = {}
    _record_outputs(twin, records)
    _record_outputs(posterior.network, records)
    running: dict[str, RunningMoments] = {}

    def outputs(weights: dict[str, Tensor], x: Any) -> dict[str, Tensor]:
        records.clear()
        functional_call(posterior.network, weights, *as_call(x))
        return {name: records[name] for name in propagated}

    with torch.no_grad():
        functional_call(twin, dict(params or network.named_parameters()), *as_call(inputs))
        propagated = _different_moments(records)
        for chunk in posterior.samples(inputs, n_samples, generator, outputs, progress):
            for name, samples in chunk.items():
                running.setdefault(name, RunningMoments()).add(samples)
    modules = {path or _WHOLE: type(module).__name__ for path, module in network.named_modules()}
    layers = [
        _agreement(name, modules[name.partition(_CALL)[0]], moments, running[name].moments)
        for name, moments in propagated.items()
    ]
    return MomentCheck(tuple(layers), n_samples)


def _log_ratio(layer: LayerAgreement | None) -> float:
    """Log of the ratio of variances; 0 of the inputs."""
    return 0.0 if layer is None else log(max(layer.variance_ratio, VARIANCE_FLOOR))


_WHOLE = "output"
_CALL = " (call "


def _record_outputs(network: nn.Module, records: dict[str, Any]) -> None:
    """Writes what each module returns to `records`, under its path and the number of the call."""

    def hook_for(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def record(module: nn.Module, inputs: Any, output: Any) -> None:
            names = chain([path], (f"{path}{_CALL}{call})" for call in count(2)))
            records[next(name for name in names if name not in records)] = output

        return record

    for path, module in network.named_modules():
        module.register_forward_hook(hook_for(path or _WHOLE))


def _different_moments(records: Mapping[str, Any]) -> dict[str, Moments]:
    """The moments among the records, once where a container returns what its last child returned."""
    found: dict[int, tuple[str, Moments]] = {}
    for name, value in records.items():
        if isinstance(value, Moments):
            found.setdefault(id(value), (name, value))
    return dict(found.values())


def _agreement(path: str, module: str, propagated: Moments, sampled: Moments) -> LayerAgreement:
    varying = sampled.variance > VARIANCE_FLOOR
    if not varying.any():
        raise ValueError(f"the output of {path!r} ({module}) does not vary in the samples; train or widen its weights")
    error = propagated.expectation - sampled.expectation
    in_deviations = (error.abs()[varying] / sampled.variance[varying].sqrt()).cpu().numpy()
    ratios = (propagated.variance[varying] / sampled.variance[varying]).cpu().numpy()
    lower, upper = np.quantile(ratios, [0.1, 0.9])
    return LayerAgreement(
        path,
        module,
        mean_error=float((error.square().sum() / sampled.variance.sum()).sqrt()),
        upper_mean_error=float(np.quantile(in_deviations, 0.9)),
        variance_ratio=float(propagated.variance.sum() / sampled.variance.sum()),
        lower_ratio=float(lower),
        upper_ratio=float(upper),
    )
