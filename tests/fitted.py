"""L2 softmax regression and a small tanh network, fitted in float64."""

import pytest
import torch
from torch import nn

from bayes_influence.data.synthetic import logistic_classes
from bayes_influence.models.mlp import MLP
from bayes_influence.training.deterministic import Deterministic
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.schemes import SCHEMES

DECAY = 0.05


@pytest.fixture(scope="session")
def train():
    return logistic_classes(40, n_features=3, n_classes=3, seed=1).dataset


@pytest.fixture(scope="session", name="test")
def held_out():
    data = logistic_classes(46, n_features=3, n_classes=3, seed=1).dataset
    return data.select(range(40, 46))


def softmax_regression():
    return MLP(3, 3, depth=0)


class Recurrent(nn.Module):
    """Three features one after the other, and three classes: torch has no batching rule for its kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.cells, self.head = nn.LSTM(1, 2, batch_first=True), nn.Linear(2, 3)

    def forward(self, inputs):
        return self.head(self.cells(inputs.unsqueeze(2))[0][:, -1])


def tanh_network():
    return MLP(3, 3, width=4, depth=1, activation="tanh")


@pytest.fixture(scope="session")
def regression(train):
    """Two seeds of one convex problem, at its minimum."""
    scheme = Deterministic("l2", weight_decay=DECAY)
    (fits,) = fit_schemes([scheme], softmax_regression, train, [0, 1], Schedule(300, 0.05), tolerance=1e-12)
    assert fits.polished.all()
    return fits


@pytest.fixture(scope="session")
def network(train):
    """Two seeds of a tanh network, all of its parameters at a minimum."""
    scheme = Deterministic("l2", weight_decay=DECAY)
    (fits,) = fit_schemes([scheme], tanh_network, train, [0, 1], Schedule(500, 0.02), parameters="all", tolerance=1e-11)
    assert fits.polished.all()
    return fits


@pytest.fixture(scope="session")
def unfinished(train):
    """A tanh network without weight decay, far from converged, in all parameters."""
    (fits,) = fit_schemes(
        [SCHEMES["none"]], tanh_network, train, [0, 1], Schedule(200, 0.02), parameters="all", tolerance=None
    )
    return fits


@pytest.fixture
def removed():
    """(S, k) ids, each seed its own."""
    return torch.tensor([[3, 17, 30], [0, 8, 39]])
