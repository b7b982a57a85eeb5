"""Products with one member's Hessian are those with its matrix."""

import pytest
import torch
from torch import nn

from bayes_influence.data.batch import Batch
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay
from bayes_influence.training import stacked
from bayes_influence.training.stacked import StackedProblem
from bayes_influence.training.stacked_hessian import StackedHessian


@pytest.mark.parametrize("own_data", [False, True])
@pytest.mark.parametrize("numbers", [1, 300, 10**6])
def test_products_are_those_with_the_dense_hessian(own_data, numbers, monkeypatch):
    monkeypatch.setattr(stacked, "PRODUCT_NUMBERS", numbers)
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    network = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    objective = Objective(network, CrossEntropy(), WeightDecay(0.1))
    state = {name: drawn(2, *value.shape) for name, value in objective.params.items()}
    lead = (2, 7) if own_data else (7,)
    batch = Batch(drawn(*lead, 2), torch.randint(2, lead, generator=generator))
    weights = torch.rand(2, 7, generator=generator, dtype=torch.float64)
    problem = StackedProblem(objective, state, batch, weights, torch.tensor([1.0, 3.0]).double(), own_data=own_data)
    vectors = drawn(problem.layout.total, 4)
    for member, dense in enumerate(problem.hessians(problem.start, problem.everyone)):
        operator = StackedHessian(problem, member)
        assert operator.examples == 7
        torch.testing.assert_close(operator @ vectors, dense @ vectors)
        torch.testing.assert_close(operator @ vectors[:, 0], dense @ vectors[:, 0])
