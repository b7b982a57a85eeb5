import pytest
import torch
from torch import nn

from bayes_influence.data.synthetic import gaussian_classes


@pytest.fixture
def data():
    return gaussian_classes(n=30, n_features=4, n_classes=3, seed=0).dataset


class HeadFirst(nn.Module):
    """Registers its last layer first."""

    def __init__(self):
        super().__init__()
        self.head, self.body = nn.Linear(5, 3), nn.Linear(4, 5)

    def forward(self, x):
        return self.head(torch.tanh(self.body(x)))


@pytest.fixture
def head_first():
    return HeadFirst().double()


@pytest.fixture
def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
