"""The published Bayesian network of Epifano et al., its training loss, and the other losses of its estimate and test.

Read from `vdp.py` and `*_vdp.py` of github.com/jrepifano/xai_is_fragile. It stands for the choice `one_objective`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import floor, log10

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bayes_influence.data.dataset import Dataset
from bayes_influence.models.activations import activation_module
from bayes_influence.models.initialisation import seeded
from bayes_influence.objectives.members import Members, stack_members
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import Params, detached_params

TERM_WEIGHTS = "term_weights"
"""Name of the frozen parameter that holds alpha, tau and the beta of every layer."""

ESTIMATE_ALPHA = 0.001
"""Weight of the log-determinant in the loss of the estimate; what is trained has another."""

ADDED_TO_HESSIAN = 0.001
"""Multiple of the identity that the estimate adds to its Hessian."""

SIGMA_END = 5.0
"""Variance parameters start uniform between 0 and this."""

DRAWS = 100
"""Initialisations drawn before giving up on one whose terms have powers of ten: the published script draws again."""


def softplus(values: Tensor) -> Tensor:
    """log(1 + exp(a)), a clamped to [-88, 88]."""
    return torch.log(1 + torch.exp(values.clamp(-88, 88)))


class PublishedLayer(nn.Module):
    """One fully connected layer of means and variances; the variance's bias is not made positive, as published.

    Args:
        n_inputs: Inputs.
        n_outputs: Outputs.
        first: Whether the inputs have no variance.
    """

    def __init__(self, n_inputs: int, n_outputs: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.mu = nn.Linear(n_inputs, n_outputs)
        self.sigma = nn.Linear(n_inputs, n_outputs)
        nn.init.xavier_normal_(self.mu.weight)
        nn.init.uniform_(self.sigma.weight, 0, SIGMA_END)

    def forward(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the outputs."""
        spread = softplus(self.sigma.weight)
        result = mean.square() @ spread.T + self.sigma.bias
        if not self.first:
            result = result + variance @ spread.T + variance @ self.mu.weight.square().T
        return self.mu(mean), result


class PublishedBayesianMLP(nn.Module):
    """Layers of means and variances, and the softmax of both: outputs (B, 2C + 1), means, variances and alpha.

    Args:
        n_inputs: Features.
        n_outputs: Classes C.
        width: Units in each hidden layer.
        depth: Hidden layers.
        activation: A key of `ACTIVATIONS`.
    """

    def __init__(self, n_inputs: int, n_outputs: int, width: int, depth: int, activation: str) -> None:
        super().__init__()
        sizes = [n_inputs, *[width] * depth, n_outputs]
        self.layers = nn.ModuleList(
            PublishedLayer(before, after, first=not index) for index, (before, after) in enumerate(pairwise(sizes))
        )
        self.activation = activation_module(activation)
        self.term_weights = nn.Parameter(torch.ones(2 + len(self.layers)), requires_grad=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Means and variances after the softmax, and alpha for every example."""
        mean, variance = inputs, torch.zeros_like(inputs)
        for index, layer in enumerate(self.layers):
            if index:
                slope = torch.func.jvp(self.activation, (mean,), (torch.ones_like(mean),))[1]
                mean, variance = self.activation(mean), variance * slope.square()
            mean, variance = layer(mean, variance)
        mean = torch.softmax(mean, dim=-1)
        variance = (mean * (1 - mean)).square() * variance
        return torch.cat([mean, variance, self.term_weights[:1].expand(len(mean), 1)], dim=-1)


def split_outputs(outputs: Float[Tensor, "B W"]) -> tuple[Tensor, Tensor, Tensor]:
    """Means and variances (B, C), and alpha (B,)."""
    classes = outputs.shape[-1] // 2
    return outputs[..., :classes], outputs[..., classes : 2 * classes], outputs[..., -1]


def _terms(outputs: Float[Tensor, "B W"], targets: Int[Tensor, " B"]) -> tuple[Tensor, Tensor]:
    """Per example: log prod s_c, and the product of residuals and precisions with mismatched classes.

    The published `mean(((y - p)**2).T @ (1 / s))` runs over pairs of classes (c, c'): (1/C^2) sum_cc' r_c^2 / s_c'.
    """
    mean, variance, _ = split_outputs(outputs)
    spread = torch.log(1 + torch.exp(variance.clamp(0, 88)))
    one_hot = torch.zeros_like(mean).scatter(-1, targets.unsqueeze(-1), 1.0)
    crossed = (one_hot - mean).square().sum(-1) * (1 / spread).sum(-1) / mean.shape[-1] ** 2
    return torch.log(spread).sum(-1), crossed


@dataclass(frozen=True)
class TrainedLoss:
    """alpha log prod_c s_c + n (1/C^2) sum_cc' r_c^2 / s_c': the second term is a sum over examples, not a mean.

    Attributes:
        n_train: n, so that J's mean over the examples is the published loss.
    """

    n_train: int

    def __call__(self, outputs: Float[Tensor, "B W"], targets: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Losses, one per example."""
        log_determinant, crossed = _terms(outputs, targets)
        return split_outputs(outputs)[2] * log_determinant + self.n_train * crossed


@dataclass(frozen=True)
class EstimatedLoss:
    """0.001 log prod_c s_c + (1/C^2) sum_cc' r_c^2 / s_c': what the estimate linearises, without the KL."""

    def __call__(self, outputs: Float[Tensor, "B W"], targets: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Losses, one per example."""
        log_determinant, crossed = _terms(outputs, targets)
        return ESTIMATE_ALPHA * log_determinant + crossed


@dataclass(frozen=True)
class SoftmaxTwice:
    """Cross-entropy that takes probabilities for logits: the published loss of the test example and of the ranking."""

    def __call__(self, outputs: Float[Tensor, "B W"], targets: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Losses in nats, one per example."""
        return -torch.log_softmax(split_outputs(outputs)[0], dim=-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)


@dataclass(frozen=True)
class PublishedKL:
    """tau sum_l beta_l KL_l, KL_l the published divergence of layer l: weights only, a mean where the sum belongs."""

    def __call__(self, params: Params) -> Float[Tensor, ""]:
        """The weighted sum."""
        weights = params[TERM_WEIGHTS]
        return weights[1] * (weights[2:] * divergences(params)).sum()


def divergences(params: Params) -> Float[Tensor, " L"]:
    """KL_l = (1/2) mean [a s + ||m||_F^2 - a - a log s] over a layer's weights, a its inputs."""
    found = []
    for name, mean in params.items():
        if name.endswith("mu.weight"):
            spread, inputs = softplus(params[name.replace("mu.", "sigma.")]), mean.shape[1]
            found.append(0.5 * (inputs * spread + mean.square().sum() - inputs - inputs * torch.log(spread)).mean())
    return torch.stack(found)


def published_members(
    network_of: tuple[int, int, int, int, str], train: Dataset, seeds: list[int], labels: list[str]
) -> Members:
    """Initial networks, one per seed, each with its powers of ten, and the loss that they are trained with.

    Args:
        network_of: What `PublishedBayesianMLP` takes.
        train: Training examples, in the dtype of the networks.
        seeds: Of the initialisations.
        labels: What the members are called.
    """
    network = PublishedBayesianMLP(*network_of).to(train.inputs.dtype)
    objective = Objective(network, TrainedLoss(len(train)), PublishedKL())
    _, _, width, depth, _ = network_of
    params = stack_members([_drawn(objective, network_of, train, seed, kl_power(depth, width)) for seed in seeds])
    first = {name: value[0] for name, value in params.items()}
    return Members(objective=objective.at(first), params=params, buffers={}, labels=tuple(labels), seeds=tuple(seeds))


def kl_power(depth: int, width: int) -> tuple[int, int]:
    """(a, b) of tau = 10^(a (power of the smallest KL - power of the residual term) + b), one by hand per script."""
    if depth > 1:
        return -1, -2
    return 1, 0 if width <= 8 else (-1 if width <= 20 else -2)


def _drawn(
    objective: Objective, network_of: tuple[int, int, int, int, str], train: Dataset, seed: int, power: tuple[int, int]
) -> Params:
    """One initialisation with its powers of ten; the first whose terms are all positive, as the script retries."""
    batch = train.batch()
    with seeded(seed):
        for _ in range(DRAWS):
            params = detached_params(PublishedBayesianMLP(*network_of).to(train.inputs.dtype))
            with torch.no_grad():
                log_determinants, crossed = _terms(objective.outputs(params, batch.inputs), batch.targets)
            log_determinant, residual = float(log_determinants.mean()), float(crossed.sum())
            if log_determinant > 0 and residual > 0 and bool((divergences(params) > 0).all()):
                kl_terms = [order_of_magnitude(float(one)) for one in divergences(params)]
                own = term_weights(order_of_magnitude(log_determinant), order_of_magnitude(residual), kl_terms, power)
                return {**params, TERM_WEIGHTS: params[TERM_WEIGHTS].new_tensor(own)}
    raise ValueError(f"seed {seed} gave no network with positive loss terms in {DRAWS} draws; take another seed")


def order_of_magnitude(number: float) -> int:
    """The power of ten of a positive number."""
    return floor(log10(number))


def term_weights(log_determinant: int, residual: int, kl_terms: list[int], power: tuple[int, int]) -> list[float]:
    """[alpha, tau, beta_1, ..., beta_L] from the terms' powers of ten in the first batch."""
    alpha = 10.0 ** (residual - log_determinant - 1)
    smallest = min(kl_terms)
    tau = 10.0 ** (power[0] * (smallest - residual) + power[1])
    return [alpha, tau, *(10.0 ** (smallest - one) for one in kl_terms)]
