"""The problem that every library gets: a trained 784-64-10 network on MNIST, its training and its test examples."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Int, Shaped
from torch import Tensor, nn

from bayes_influence.data.dataset import Dataset
from bayes_influence.data.images import load_images
from bayes_influence.models.mlp import MLP
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Likelihood, Objective
from bayes_influence.objectives.regularisers import NoRegulariser, WeightDecay


@dataclass(frozen=True)
class Problem:
    """Influence of n training examples on t test losses under J = mean cross-entropy (+ weight decay).

    Attributes:
        network: In `dtype`, in evaluation mode. Parameters that influence is not taken in require no gradient.
        inputs: (n, D) training inputs.
        targets: (n,) classes, or (n, T) of sequences.
        test_inputs: (t, D).
        test_targets: (t,) or (t, T).
        damping: delta in (C + delta I).
        curvature: What C is, by this library's name of it.
        parameters: "all" or "last-layer".
        decay: lambda of R = (lambda/2) ||theta||^2; 0 for no regulariser.
        batch_size: Examples that a library is told to take at a time.
        residual: Relative residual that iterative solvers are asked for.
        likelihood: One cross-entropy per example; of a sequence the sum over its tokens.
    """

    network: nn.Module
    inputs: Shaped[Tensor, "n D"]
    targets: Int[Tensor, "n *T"]
    test_inputs: Shaped[Tensor, "t D"]
    test_targets: Int[Tensor, "t *T"]
    damping: float
    curvature: str = "hessian"
    parameters: str = "all"
    decay: float = 0.0
    batch_size: int = 1000
    residual: float = 1e-4
    likelihood: Likelihood = field(default_factory=CrossEntropy)

    @property
    def dtype(self) -> torch.dtype:
        """Of the network."""
        return next(self.network.parameters()).dtype

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters that influence is taken in."""
        return tuple(name for name, parameter in self.network.named_parameters() if parameter.requires_grad)

    @property
    def shift(self) -> float:
        """What a library that knows no regulariser must add to the Hessian's diagonal: delta + lambda."""
        return self.damping + self.decay

    def objective(self) -> Objective:
        """J as this library takes it."""
        regulariser = WeightDecay(self.decay) if self.decay else NoRegulariser()
        return Objective(self.network, self.likelihood, regulariser, parameters=self.names)

    def train(self) -> Dataset:
        """The training examples as this library takes them."""
        return Dataset(self.inputs, self.targets, torch.arange(len(self.targets)), name="train")

    def test(self) -> Dataset:
        """The test examples as this library takes them."""
        ids = torch.arange(len(self.targets), len(self.targets) + len(self.test_targets))
        return Dataset(self.test_inputs, self.test_targets, ids, name="test")


def mnist_problem(
    examples: int,
    tests: int,
    damping: float,
    *,
    curvature: str = "hessian",
    parameters: str = "all",
    dtype: torch.dtype = torch.float32,
    residual: float = 1e-4,
    epochs: int = 30,
    folder: Path | None = None,
) -> Problem:
    """Trains the network on the first examples of MNIST and asks for influence on the first test examples.

    Adam at learning rate 1e-3 on batches of 128, in float32, from a fixed seed.
    """
    split = load_images("mnist", folder)
    inputs, targets = split.train.inputs[:examples].flatten(1).clone(), split.train.targets[:examples].clone()
    network = trained(MLP(784, 10, width=64, activation="relu", seed=0), inputs, targets, epochs)
    chosen = list(network.parameters())[-2:] if parameters == "last-layer" else list(network.parameters())
    for parameter in network.parameters():
        parameter.requires_grad_(any(parameter is own for own in chosen))
    return Problem(
        network.to(dtype).eval(),
        inputs.to(dtype),
        targets,
        split.test.inputs[:tests].flatten(1).to(dtype, copy=True),
        split.test.targets[:tests].clone(),
        damping,
        curvature,
        parameters,
        residual=residual,
    )


def trained(network: nn.Sequential, inputs: Tensor, targets: Tensor, epochs: int) -> nn.Sequential:
    """The network after some epochs of Adam."""
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs), generator=generator).split(128):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(inputs[rows]), targets[rows]).backward()
            optimiser.step()
    return network
