import pytest
import torch
from torch import nn

from bayes_influence.data.dataset import Dataset
from bayes_influence.data.tables import leave_out, load_table
from bayes_influence.models.initialisation import initial_params
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay
from bayes_influence.training.stacked import StackedProblem


@pytest.fixture(scope="session")
def iris():
    return leave_out(load_table("iris"), 83)


def make_network():
    return nn.Sequential(nn.Linear(4, 5), nn.SELU(), nn.Linear(5, 3)).double()


@pytest.fixture
def objective():
    return Objective(make_network(), CrossEntropy(), WeightDecay(0.005))


@pytest.fixture
def start():
    return initial_params(make_network, range(4), torch.float64)


@pytest.fixture
def endless():
    """R = w^2 / 2 - w^4 / 4 of three members: its minimum is at 0, and there is none beyond 1; and their slopes."""

    def well(params):
        return (params["weight"].square() / 2 - params["weight"].pow(4) / 4).sum()

    data = Dataset(torch.ones(3, 1).double(), torch.zeros(3, dtype=torch.int64), torch.arange(3))
    objective = Objective(nn.Linear(1, 1, bias=False).double(), lambda outputs, _: 0 * outputs.squeeze(1), well)
    starts = {"weight": torch.tensor([[[0.3]], [[2.0]], [[-1.5]]]).double()}
    weights = starts["weight"].flatten()
    return StackedProblem(objective, starts, data.batch()), weights - weights.pow(3)
