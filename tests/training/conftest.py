import pytest
import torch
from torch import nn

from bayes_influence.data.tables import leave_out, load_table
from bayes_influence.models.initialisation import initial_params
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay


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
