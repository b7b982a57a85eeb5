"""The problems of the pages in this folder, at exact minima, and their exact refits."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

import bayes_influence as bi
from bayes_influence.data.tables import hold_out, load_table
from bayes_influence.models import MLP
from bayes_influence.objectives.objective import Likelihood
from bayes_influence.training.minimum import minimum_of
from bayes_influence.training.newton import minimise_newton
from bayes_influence.training.stacked import StackedProblem


@cache
def cancer() -> bi.Split:
    """Breast cancer: 455 training and 114 test examples, 30 standardised features, 2 classes."""
    return hold_out(load_table("breast-cancer"), seed=0)


@cache
def logistic(decay: float = 0.01) -> bi.Objective:
    """L2 logistic regression on it."""
    return minimum_of(bi.Objective(nn.Linear(30, 2), bi.CrossEntropy(), bi.WeightDecay(decay)), cancer().train)


@cache
def network() -> bi.Objective:
    """A 30-4-2 tanh network on it, at a minimum in all its parameters."""
    objective = bi.Objective(MLP(30, 2, width=4, activation="tanh", seed=0), bi.CrossEntropy(), bi.WeightDecay(0.01))
    return minimum_of(objective, cancer().train)


def fitted() -> dict[str, bi.Objective]:
    """Both, under their names."""
    return {"logistic regression": logistic(), "tanh network": network()}


@cache
def bayesian_iris() -> tuple[bi.Split, bi.Objective]:
    """Bayesian logistic regression on Iris at the minimum of its ELBO in means and log standard deviations."""
    split = hold_out(load_table("iris"), seed=0)
    twin = bi.to_bayesian(nn.Linear(4, 3).double())
    objective = bi.Objective(twin, bi.TiltedCategorical(), bi.GaussianKL(len(split.train)))
    return split, minimum_of(objective, split.train)


def refits(objective: bi.Objective, train: bi.Dataset, groups: list[Tensor]) -> list[bi.Objective]:
    """The minimum without each group, 1/n held, by Newton's method from the fit."""
    weights = torch.ones(len(groups), len(train), dtype=torch.float64)
    for row, ids in enumerate(groups):
        weights[row, train.positions(ids)] = 0.0
    stacked = {
        name: value.double().expand(len(groups), *value.shape).clone() for name, value in objective.params.items()
    }
    result = minimise_newton(StackedProblem(objective, stacked, train.batch(), weights))
    if not result.converged.all():
        raise RuntimeError(f"{int((~result.converged).sum())} refits did not converge")
    moved = [{name: value[row] for name, value in result.free.items()} for row in range(len(groups))]
    return [objective.at({**objective.params, **params}) for params in moved]


def changes(objective: bi.Objective, after: list[bi.Objective], test: bi.Dataset, measure: Likelihood) -> Tensor:
    """(t, k) true changes of a measurement."""

    def values(at: bi.Objective) -> Tensor:
        with torch.no_grad():
            return measure(at.outputs(at.params, test.inputs), test.targets)

    return torch.stack([values(refit) - values(objective) for refit in after], dim=1)
