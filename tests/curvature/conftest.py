"""Small float64 problems whose curvature can be written down densely."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bayes_influence.data.dataset import Dataset
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import RHO
from bayes_influence.objectives.regularisers import GaussianKL, WeightDecay


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


class VariationalLinear(nn.Module):
    """One linear layer with Gaussian weights; its outputs are (means, variances)."""

    def __init__(self, n_inputs: int, n_outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.5 * torch.randn(n_outputs, n_inputs, dtype=torch.float64))
        self.weight_rho = nn.Parameter(torch.empty(n_outputs, n_inputs, dtype=torch.float64).uniform_(-3, -1))

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        return inputs @ self.weight.T, inputs.square() @ torch.exp(2 * self.weight_rho).T


def second_order_cross_entropy(outputs: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
    means, variances = outputs
    p = means.softmax(-1)
    return cross_entropy(means, targets) + 0.5 * ((p - p.square()) * variances).sum(-1)


@pytest.fixture
def classification() -> Dataset:
    """23 examples of 4 features in 3 classes."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(23, 4, dtype=torch.float64, generator=generator)
    return Dataset(inputs, torch.randint(3, (23,), generator=generator), torch.arange(23), name="random classes")


@pytest.fixture
def make_objective() -> Callable[..., Objective]:
    """A 4-5-3 tanh network with weight decay, in float64 unless told otherwise."""

    def make(selection: str = "all", decay: float = 0.05, dtype: torch.dtype = torch.float64) -> Objective:
        torch.manual_seed(2)
        network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)
        return Objective(network, cross_entropy, WeightDecay(decay), selection=selection)

    return make


@pytest.fixture
def variational_objective(classification: Dataset) -> Objective:
    """A variational linear classifier and its negative ELBO over n, to second order in the logits' variance."""
    torch.manual_seed(3)
    network = VariationalLinear(4, 3)
    assert [name for name, _ in network.named_parameters()] == ["weight", "weight" + RHO]
    return Objective(network, second_order_cross_entropy, GaussianKL(len(classification)))


@pytest.fixture
def random_matrix() -> Callable[..., Tensor]:
    """A symmetric matrix with given eigenvalues in random directions."""

    def make(eigenvalues: Tensor, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        size = len(eigenvalues)
        directions, _ = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator))
        matrix = (directions * eigenvalues.to(torch.float64)) @ directions.T
        return 0.5 * (matrix + matrix.T)

    return make
