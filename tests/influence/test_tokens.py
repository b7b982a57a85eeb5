"""Influence of single terms of a loss: against the gradient of each, in batches, with weights, in either mode."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from bayes_influence.data.dataset import Dataset
from bayes_influence.influence.problem import FittedProblem
from bayes_influence.influence.tokens import token_influence
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay
from bayes_influence.objectives.ways import is_quick
from tests.layer_types import LENGTH, WIDTH, After, Custom, Square


@dataclass(frozen=True)
class Squares:
    """A sum of squared errors, an output's square a term."""

    def terms(self, outputs, targets):
        return (outputs - targets).square()

    def __call__(self, outputs, targets):
        return self.terms(outputs, targets).sum(1)


@pytest.fixture(params=[nn.Tanh, lambda: Custom(Square)], ids=["forward mode", "reverse mode"])
def objective(request):
    torch.manual_seed(0)
    return Objective(After(request.param()).double(), Squares(), WeightDecay(0.1))


@pytest.mark.parametrize("weighted", [False, True])
def test_a_terms_influence_is_along_its_own_gradient(objective, weighted):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(7, LENGTH, WIDTH, generator=generator, dtype=torch.float64)
    targets = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    weights = torch.rand(7, generator=generator, dtype=torch.float64) if weighted else None
    data = Dataset(inputs, targets, torch.arange(7) + 10, weights=weights)
    problem = FittedProblem(objective, data, batch_size=2)
    solved = torch.randn(problem.size, 2, generator=generator, dtype=torch.float64)
    found = token_influence(problem, solved, [11, 16, 10, 13, 12])
    assert found.shape == (2, 5, 3)
    leaves = {name: value.clone().requires_grad_() for name, value in objective.params.items()}
    for place, row in enumerate([1, 6, 0, 3, 2]):
        terms = (objective.outputs(leaves, inputs[row : row + 1]) - targets[row])[0].square()
        for position, term in enumerate(terms if weights is None else weights[row] * terms):
            parts = torch.autograd.grad(term, list(leaves.values()), retain_graph=True)
            expected = torch.cat([part.flatten() for part in parts]) @ solved / 7
            torch.testing.assert_close(found[:, place, position], expected)
    assert is_quick(problem.reduced.network, "products") == isinstance(objective.network.layer, nn.Tanh)


def test_a_loss_without_terms_is_refused():
    data = Dataset(torch.randn(4, 3).double(), torch.arange(4) % 3, torch.arange(4))
    problem = FittedProblem(Objective(nn.Linear(3, 3).double(), CrossEntropy(), WeightDecay(0.1)), data)
    with pytest.raises(TypeError, match=r"with a method `terms` as NextToken has it; 'CrossEntropy' has none"):
        token_influence(problem, torch.ones(12, 1).double(), [0])
