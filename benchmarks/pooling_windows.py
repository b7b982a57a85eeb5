"""Where the mean of a LeNet with tanh and max pooling goes astray: every rule alone, and what windows have in common.

The network is trained under first-order moments and then under exact ones. The first table starts every layer from the
sampled moments of its inputs: what its own rule errs, and what the logits err from there on. The second holds ways to
pool against samples, again from the sampled moments of the windows' entries: the entry of largest mean (co-pooling),
Clark's moments of independent entries, and Clark's with a covariance of the entries, the sampled one or the one that
the weights before them cause, which the positions share. Errors are root mean squares in standard deviations.

    python -m benchmarks.pooling_windows
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Annotated

import torch
import torch.nn.functional as F  # noqa: N812
import typer
from torch import Tensor, nn

from bayes_influence.experiments.training.settings import BAYESIAN_LEARNING_RATE, TrainRun
from bayes_influence.moments import Approximation, Moments
from bayes_influence.moments.gaussian import normal_density, normal_distribution
from bayes_influence.moments.moments import VARIANCE_FLOOR
from bayes_influence.moments.sampling import Posterior
from benchmarks.moment_structures import NETWORKS, agreement, at_start, built, calibrated, minimised

WINDOW = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Entries of a window, by row and column."""


def drawn_outputs(twin: nn.Module, inputs: Tensor, draws: int) -> list[Tensor]:
    """Every layer's outputs under drawn weights, (draws, n, ...) each."""
    posterior = Posterior.of(twin)
    layers = list(posterior.network.children())
    records: dict[str, Tensor] = {}
    for index, layer in enumerate(layers):
        layer.register_forward_hook(lambda _, __, output, name=str(index): records.update({name: output}))

    def outputs(weights: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
        torch.func.functional_call(posterior.network, weights, (x,))
        return dict(records)

    chunks = list(posterior.samples(inputs, draws, torch.Generator().manual_seed(7), outputs, at_once=1))
    return [torch.cat([chunk[str(index)] for chunk in chunks]) for index in range(len(layers))]


def windows(x: Tensor) -> Tensor:
    """Entries of windows of 2 x 2 on an axis of four before the positions: (..., 4, positions)."""
    return torch.stack([x[..., row::2, column::2].flatten(-2) for row, column in WINDOW], -2)


def larger(x: Moments, y: Moments, covariance: Tensor) -> tuple[Moments, Tensor]:
    """Clark's moments of the larger of two Gaussians of this covariance, and the probability that it is the first."""
    theta = (x.variance + y.variance - 2 * covariance).clamp(min=VARIANCE_FLOOR).sqrt()
    a = (x.expectation - y.expectation) / theta
    density, above, below = normal_density(a), normal_distribution(a), normal_distribution(-a)
    mean = x.expectation * above + y.expectation * below + theta * density
    square = (x.expectation.square() + x.variance) * above + (y.expectation.square() + y.variance) * below
    square = square + (x.expectation + y.expectation) * theta * density
    return Moments(mean, (square - mean.square()).clamp(min=0)), above


def largest(mean: Tensor, variance: Tensor, covariance: Tensor) -> Moments:
    """Clark's moments of the largest of four, of this covariance (..., 4, 4, positions), pair by pair."""
    entries = [Moments(mean[..., index, :], variance[..., index, :]) for index in range(4)]
    first, p = larger(entries[0], entries[1], covariance[..., 0, 1, :])
    second, q = larger(entries[2], entries[3], covariance[..., 2, 3, :])
    pairs = [[covariance[..., i, j, :] for j in (2, 3)] for i in (0, 1)]
    between = p * (q * pairs[0][0] + (1 - q) * pairs[0][1]) + (1 - p) * (q * pairs[1][0] + (1 - q) * pairs[1][1])
    return larger(first, second, between)[0]


def shared_correlation(layer: nn.Module, x: Moments) -> Tensor:
    """Correlation of a convolution's outputs in each window, of inputs whose entries are independent: (..., 4, 4, p).

    Of positions d apart, Cov = sum_k sigma_k^2 m_k m_(k+d) + mu_k mu_(k-d) v_k, plus sigma_b^2: they share weights and,
    where their fields overlap, inputs.
    """
    size, around = layer.weight.shape[-1], layer.deterministic().padding[0]
    mean, variance = (F.pad(part, [around] * 4) for part in (x.expectation, x.variance))
    spread, bias = torch.exp(2 * layer.weight_rho), torch.exp(2 * layer.bias_rho)
    own = F.conv2d(mean.square() + variance, spread, bias) + F.conv2d(variance, layer.weight.square())
    entries = windows(own)
    found = torch.ones(*entries.shape[:-2], 4, 4, entries.shape[-1])
    for i, j in combinations(range(4), 2):
        down, right = (b - a for a, b in zip(WINDOW[i], WINDOW[j], strict=True))
        moved = torch.roll(mean, (-down, -right), (-2, -1))
        overlap = torch.zeros_like(layer.weight)
        here = (..., slice(down, size), slice(max(right, 0), size + min(right, 0)))
        there = (..., slice(0, size - down), slice(max(-right, 0), size + min(-right, 0)))
        overlap[here] = layer.weight[here] * layer.weight[there]
        shared = windows(F.conv2d(mean * moved, spread, bias) + F.conv2d(variance, overlap))[..., i, :]
        correlation = shared / (entries[..., i, :] * entries[..., j, :]).sqrt()
        found[..., i, j, :] = found[..., j, i, :] = correlation.clamp(-1, 1)
    return found


def ways_to_pool(drawn: Tensor, layer: nn.Module, x: Moments) -> dict[str, tuple[Moments, float]]:
    """Moments of the largest of each window, from the sampled moments of its entries, and their mean correlation."""
    entries = windows(drawn)
    mean, variance = entries.mean(0), entries.var(0)
    scale = (variance.unsqueeze(-2) * variance.unsqueeze(-3)).sqrt()
    deviations = entries - mean
    sampled = torch.einsum("d...ip,d...jp->...ijp", deviations, deviations) / (len(entries) - 1)
    correlations = {
        "Clark, independent": torch.zeros_like(sampled),
        "Clark, covariance of shared weights": shared_correlation(layer, x),
        "Clark, sampled covariance": sampled / scale.clamp(min=VARIANCE_FLOOR),
    }
    top, where = mean.max(-2)
    found = {"co-pooling": (Moments(top, variance.gather(-2, where.unsqueeze(-2)).squeeze(-2)), 1.0)}
    first, second = zip(*combinations(range(4), 2), strict=True)
    for name, correlation in correlations.items():
        between = float(correlation[..., first, second, :].mean())
        found[name] = largest(mean, variance, correlation * scale), between
    return found


def main(
    epochs: Annotated[int, typer.Option(help="Under first-order moments, on 6000 images; one of 4000 follows.")] = 5,
    examples: Annotated[int, typer.Option(help="Test examples.")] = 24,
    draws: Annotated[int, typer.Option(help="Draws of the weights.")] = 400,
    data_folder: Annotated[str | None, typer.Option(help="Where image sets are kept.")] = None,
) -> None:
    """Trains, and prints both tables."""
    setting = replace(NETWORKS["tanh-max"], examples=6000)
    split = TrainRun("mnist", "lenet", train_examples=setting.examples).split(data_folder)
    train, inputs = split.train, split.test.inputs[:examples]
    network, n = at_start(setting, train), len(train)
    rough = minimised(built(network, setting, "first-order", "diagonal", n), train, epochs, 128, BAYESIAN_LEARNING_RATE)
    exact = built(network, setting, "exact", "diagonal", n).at(rough.params)
    params = minimised(exact, train.select(range(4000)), 1, 128, 0.4 * BAYESIAN_LEARNING_RATE).params
    twin = calibrated(built(network, setting, "exact", "calibrated-covariance", n).at(params), train).network
    layers = list(twin.children())
    with torch.no_grad():
        drawn = drawn_outputs(twin, inputs, draws)
        sampled = [Moments(own.mean(0), own.var(0)) for own in drawn]
        print(f"sampling noise {draws**-0.5:.3f}; layer: error of its rule alone, of the logits from its outputs on")
        for index, layer in enumerate(layers):
            start = inputs if index == 0 else sampled[index - 1]
            errors = []
            for first, x, end in ((index, start, index), (index + 1, sampled[index], len(layers) - 1)):
                if isinstance(x, Moments):
                    x = Moments(x.expectation, x.variance, Approximation("exact", structure="calibrated-covariance"))
                for after in layers[first : end + 1]:
                    x = after(x)
                errors.append(agreement(x, sampled[end])["mean error"])
            print(f"{index:3} {type(layer).__name__:18} {errors[0]:.3f} {errors[1]:.3f}")
        for index, layer in enumerate(layers):
            if not isinstance(layer, nn.MaxPool2d):
                continue
            before = Moments(inputs, torch.zeros_like(inputs)) if index == 2 else sampled[index - 3]
            target = Moments(*(part.flatten(-2) for part in (sampled[index].expectation, sampled[index].variance)))
            for name, (pooled, correlation) in ways_to_pool(drawn[index - 1], layers[index - 2], before).items():
                error = agreement(pooled, target)["mean error"]
                print(f"pooling {index}, {name}: error {error:.3f}, correlation {correlation:.2f}")


if __name__ == "__main__":
    typer.run(main)
