"""Gradients as outer products: held against the gradients themselves, whatever their size."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from bayes_influence.curvature.operators.ekfac import EKFACOperator
from bayes_influence.data.dataset import Dataset
from bayes_influence.influence.influence import Influence
from bayes_influence.objectives.derivatives import dense_hessian
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
def test_what_a_layer_leaves_out_is_refused_from_the_root_of_rounding_on(size) -> None:
    """1.5e-8 of the gradient in double precision, whatever unit the inputs have."""
    generator = torch.Generator().manual_seed(0)
    inputs, targets = size * torch.randn(2, 6, 4, dtype=torch.float64, generator=generator)
    data = Dataset(inputs, targets, torch.arange(6))

    def built(share: float) -> EKFACOperator:
        objective = Objective(Halves(share), lambda outputs, targets: (outputs - targets).square().sum(dim=1))
        return EKFACOperator(objective, data, 2)

    assert built(0.0).size == built(1e-9).size == 16
    with pytest.raises(ValueError, match=r"the gradient of layer 'layer' is not made of what the layer receives"):
        built(1e-7)


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
