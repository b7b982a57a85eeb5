"""Gradients as outer products: held against the gradients themselves, whatever their size."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from bayes_influence.curvature.operators.ekfac import EKFACOperator
from bayes_influence.data.dataset import Dataset
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
