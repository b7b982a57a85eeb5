"""Gradients as outer products: held against the gradients themselves, whatever their size."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from bayes_influence.curvature.operators.ekfac import EKFACOperator
from bayes_influence.curvature.operators.outer_products import _Uses
from bayes_influence.data.dataset import Dataset
from bayes_influence.influence.influence import Influence
from bayes_influence.objectives import two_companies
from bayes_influence.objectives.derivatives import dense_hessian
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective


class Halves(nn.Module):
    """A linear layer whose weight a small part of the outputs uses once more, on its own."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.layer, self.share = nn.Linear(4, 4, bias=False).double(), share

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs = self.layer(inputs)
        return outputs + self.share * functional.linear(inputs, self.layer.weight.T) if self.share else outputs


@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("share", [1e-12, 1e-7, 1.0])
def test_a_second_use_of_a_weight_is_refused_however_small_its_gradient(size, share) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, targets = size * torch.randn(2, 6, 4, dtype=torch.float64, generator=generator)
    data = Dataset(inputs, targets, torch.arange(6))

    def built(share: float) -> EKFACOperator:
        objective = Objective(Halves(share), lambda outputs, targets: (outputs - targets).square().sum(dim=1))
        return EKFACOperator(objective, data, 2)

    assert built(0.0).size == 16
    with pytest.raises(ValueError, match=r"the gradient of layer 'layer' is not made of what the layer receives"):
        built(share)


class Opposites(nn.Module):
    """A second use of the weight whose gradients of two examples are opposite: together they are 0."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2, bias=False).double()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.layer(inputs[:, :2]) + inputs[:, 2:3] * self.layer.weight.sum()


def test_second_uses_that_cancel_within_a_batch_are_refused() -> None:
    inputs = torch.tensor([[1.0, 0.0, 1.0], [1.0, 0.0, -1.0]], dtype=torch.float64)
    objective = Objective(Opposites(), lambda outputs, targets: (outputs - targets).sum(dim=1))
    data = Dataset(inputs, torch.zeros(2, 2, dtype=torch.float64), torch.arange(2))
    with pytest.raises(ValueError, match=r"the gradient of layer 'layer' is not made of what the layer receives"):
        EKFACOperator(objective, data, 2, fisher="empirical")


class Conv1D(nn.Module):
    """Named and shaped as GPT-2's, and called in several ways."""

    def __init__(self, **options: float) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(2))
        self.options = options

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if "by name" in self.options:
            return torch.addmm(input=self.bias, mat1=inputs, mat2=self.weight)
        if "apart" in self.options:
            return torch.addmm(torch.ones(2).double(), inputs, self.weight) + self.bias
        return torch.addmm(self.bias, inputs, self.weight, **self.options)


@pytest.mark.parametrize("options", [{"alpha": 2.0}, {"beta": 0.5}, {"apart": 1.0}])
def test_a_layer_is_known_by_how_its_parameters_are_used(options) -> None:
    inputs = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    data = Dataset(inputs, torch.zeros(4, 2, dtype=torch.float64), torch.arange(4))

    def built(network: nn.Module) -> EKFACOperator:
        objective = Objective(network.double(), lambda outputs, targets: (outputs - targets).square().sum(dim=1))
        return EKFACOperator(objective, data)

    torch.testing.assert_close(built(Conv1D(**{"by name": 1.0})).diagonal(), built(Conv1D()).diagonal())
    with pytest.raises(ValueError, match=r"layer '' takes no part in the network's outputs"):
        built(Conv1D(**options))


class Flat(nn.Module):
    """A layer that is called on positions, and returns a row for each of these."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(2, 3).double(), nn.Linear(3, 2).double()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.body(inputs)).reshape(-1, 3))


def test_outputs_with_a_row_per_position_are_not_taken_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(6, 4, 2, dtype=torch.float64, generator=generator)
    data = Dataset(inputs, torch.arange(24).reshape(6, 4) % 2, torch.arange(6))

    def mean(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(outputs, targets.reshape(-1), reduction="none").reshape(targets.shape).mean(1)

    objective = Objective(Flat(), mean, parameters="last-layer")
    influence = Influence(objective, data, damping=1.0)
    gradients = influence.problem.gradients(data)
    hessian = dense_hessian(influence.problem.reduced, data.batch()) + torch.eye(8).double()
    expected = -gradients @ torch.linalg.solve(hessian, gradients.T)
    torch.testing.assert_close(influence.on_loss(data).values, expected)
    with pytest.raises(ValueError, match="returns a row per example, got 8 rows for 2 examples"):
        EKFACOperator(objective.taking("all"), data, 6)


class LateTransposed(nn.Module):
    """Puts positions on the first axis, but only in company of an example beyond a bound; the losses are the same."""

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.layer, self.bound = nn.Linear(2, 2).double(), bound

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if inputs.max() > self.bound:
            return torch.tanh(self.layer(inputs.transpose(0, 1))).transpose(0, 1).sum(dim=1)
        return torch.tanh(self.layer(inputs)).sum(dim=1)


@pytest.mark.parametrize("work", [1, 10**6])
@pytest.mark.parametrize("fisher", ["exact", "sampled", "empirical"])
def test_rows_that_a_late_batch_has_in_another_order_are_refused(fisher, work, monkeypatch) -> None:
    """Seen in the batch itself, or where one vector is sent back and there are two companies, in the second."""
    monkeypatch.setattr(two_companies, "PART_WORK", work)
    inputs = torch.rand(40, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    inputs[30, 1, 0] = 2.0
    data = Dataset(inputs, torch.arange(40) % 2, torch.arange(40))
    asked: list[int] = []
    pulled = _Uses.pulled
    monkeypatch.setattr(_Uses, "pulled", lambda self, vectors: asked.append(len(vectors)) or pulled(self, vectors))

    def built(bound: float) -> EKFACOperator:
        objective = Objective(LateTransposed(bound), CrossEntropy())
        return EKFACOperator(objective, data, 4, fisher=fisher)

    assert built(3.0).size == 6
    again = 0 if work == 1 and fisher == "empirical" else 40
    assert sum(asked) == 2 * 2 + 40 + 40 + again
    with pytest.raises(ValueError, match=r"the gradient of layer 'layer' is not made of what the layer receives"):
        built(1.5)
