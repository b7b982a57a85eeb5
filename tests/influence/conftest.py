"""Small fitted problems in float64, at exact minima, and exact refits with other data weights."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bayes_influence.data.dataset import Dataset
from bayes_influence.data.synthetic import logistic_classes
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay
from bayes_influence.training.minimum import minimum_of
from bayes_influence.training.newton import minimise_newton
from bayes_influence.training.stacked import StackedProblem

Reweighted = Callable[[Objective, Dataset, Tensor], Objective]


@pytest.fixture(scope="session")
def train() -> Dataset:
    """40 examples of 3 features in 3 classes; their ids are not their positions."""
    return _shuffled().select(range(40))


@pytest.fixture(name="test", scope="session")
def further_examples() -> Dataset:
    """5 further ones."""
    return _shuffled().select(range(40, 45))


def _shuffled() -> Dataset:
    whole = logistic_classes(45, n_features=3, n_classes=3, seed=4).dataset
    return whole.select(torch.randperm(45, generator=torch.Generator().manual_seed(0)))


@pytest.fixture(scope="session")
def linear(train: Dataset) -> Objective:
    """L2 softmax regression at its minimum."""
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(3, 3)).double()
    return minimum_of(Objective(network, CrossEntropy(), WeightDecay(0.02)), train)


@pytest.fixture(scope="session")
def deep(train: Dataset) -> Objective:
    """A 3-4-3 tanh network with weight decay at a minimum in all its parameters."""
    torch.manual_seed(2)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    return minimum_of(Objective(network, CrossEntropy(), WeightDecay(0.02)), train)


@pytest.fixture(scope="session")
def reweighted() -> Reweighted:
    """The truth: the objective minimised with data weights w, its 1/n unchanged, by Newton's method."""

    def refit(objective: Objective, train: Dataset, weights: Tensor) -> Objective:
        stacked = {name: value.unsqueeze(0) for name, value in objective.params.items()}
        result = minimise_newton(StackedProblem(objective, stacked, train.batch(), weights.unsqueeze(0)))
        assert result.converged.all()
        return objective.at({**objective.params, **{name: value[0] for name, value in result.free.items()}})

    return refit
