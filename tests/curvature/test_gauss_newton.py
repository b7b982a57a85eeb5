from dataclasses import replace

import pytest
import torch
from torch import nn

from bayes_influence.curvature.operators.gauss_newton import EmpiricalFisherOperator, GaussNewtonOperator
from bayes_influence.curvature.operators.hessian import HessianOperator
from bayes_influence.data.dataset import Dataset
from bayes_influence.objectives.likelihoods import CrossEntropy, GaussianNoise
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay
from tests.layer_types import Square, Squared


@pytest.mark.parametrize(
    ("operator", "reference"),
    [(GaussNewtonOperator, "gauss_newton_of"), (EmpiricalFisherOperator, "empirical_fisher_of")],
)
def test_what_has_no_forward_mode_has_the_same_curvature(classification, request, operator, reference) -> None:
    objectives = []
    for square in (torch.square, Square.apply):
        torch.manual_seed(5)
        network = nn.Sequential(nn.Linear(4, 5), Squared(square), nn.Linear(5, 3)).double()
        objectives.append(Objective(network, CrossEntropy(), WeightDecay(0.05)))
    plain, custom = objectives
    expected = request.getfixturevalue(reference)(plain, classification.batch())
    torch.testing.assert_close(operator(custom, classification, batch_size=8).dense(), expected)


def test_gauss_newton_is_the_hessian_where_outputs_are_linear(make_objective, classification) -> None:
    objective = make_objective("last-layer")
    torch.testing.assert_close(
        GaussNewtonOperator(objective, classification).dense(), HessianOperator(objective, classification).dense()
    )


def test_gauss_newton_is_positive_where_the_hessian_is_not(make_objective, classification) -> None:
    objective = make_objective(decay=0.0)
    assert torch.linalg.eigvalsh(HessianOperator(objective, classification).dense()).min() < -1e-3
    assert torch.linalg.eigvalsh(GaussNewtonOperator(objective, classification).dense()).min() > -1e-15


def test_gauss_newton_of_a_squared_error_is_the_jacobian_squared(classification) -> None:
    network = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    data = Dataset(classification.inputs, torch.randn(24, 2, dtype=torch.float64), classification.ids)
    objective = Objective(network, GaussianNoise(0.5))
    layout = objective.layout
    jacobian = torch.func.jacrev(lambda theta: objective.outputs(layout.unflatten(theta), data.inputs).flatten())
    stacked = jacobian(layout.flatten(objective.params))
    torch.testing.assert_close(
        GaussNewtonOperator(objective, data, batch_size=6).dense(), stacked.T @ stacked / (24 * 0.25)
    )


@pytest.mark.parametrize("operator", [GaussNewtonOperator, EmpiricalFisherOperator])
def test_the_regulariser_is_counted_once(make_objective, classification, operator) -> None:
    objective = make_objective(decay=0.7)
    inside = operator(objective, classification, batch_size=4).dense()
    outside = operator(replace(objective, regulariser_weight=0.0), classification, batch_size=4).dense()
    torch.testing.assert_close(inside - outside, 0.7 * torch.eye(43, dtype=torch.float64))


def test_empirical_fisher_is_not_the_gauss_newton_matrix(make_objective, classification) -> None:
    """For one scalar output and squared error, g g' = e^2 J'J: residual-weighted, where Gauss-Newton is J'J."""
    network = nn.Linear(4, 1).double()
    residuals = torch.linspace(-2, 2, 24, dtype=torch.float64)
    targets = (network(classification.inputs).squeeze(1) - residuals).detach().unsqueeze(1)
    data = Dataset(classification.inputs, targets, classification.ids)
    objective = Objective(network, GaussianNoise(1.0), WeightDecay(0.0))
    features = torch.cat([classification.inputs, torch.ones(24, 1, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(
        EmpiricalFisherOperator(objective, data).dense(), (features * residuals.square()[:, None]).T @ features / 24
    )
    torch.testing.assert_close(GaussNewtonOperator(objective, data).dense(), features.T @ features / 24)
