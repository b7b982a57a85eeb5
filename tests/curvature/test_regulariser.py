import pytest
import torch
from torch import nn

from bayes_influence.curvature.operators.regulariser import RegulariserOperator
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import NoRegulariser, WeightDecay


@pytest.mark.parametrize(("regulariser", "entry"), [(NoRegulariser(), 0.0), (WeightDecay(0.3), 0.6)])
def test_weight_decay_is_a_multiple_of_the_identity(regulariser, entry) -> None:
    objective = Objective(nn.Linear(3, 2), nn.functional.cross_entropy, regulariser, regulariser_weight=2.0)
    operator = RegulariserOperator(objective)
    torch.testing.assert_close(operator.entries, torch.full((8,), entry))
    torch.testing.assert_close(operator.dense(), entry * torch.eye(8))


def test_the_kl_divergence_is_diagonal(variational_objective) -> None:
    operator = RegulariserOperator(variational_objective)
    layout = variational_objective.layout
    theta = layout.flatten(variational_objective.params)
    expected = torch.func.hessian(lambda eta: variational_objective.regulariser(layout.unflatten(eta)))(theta)
    torch.testing.assert_close(torch.diag(operator.entries), expected)


def test_a_regulariser_that_is_not_diagonal() -> None:
    def smoothness(params: dict[str, torch.Tensor]) -> torch.Tensor:
        return params["weight"].diff(dim=1).square().sum() + params["bias"].pow(4).sum()

    objective = Objective(nn.Linear(3, 2).double(), nn.functional.cross_entropy, smoothness)
    operator = RegulariserOperator(objective)
    theta = objective.layout.flatten(objective.params)
    expected = torch.func.hessian(lambda vector: smoothness(objective.layout.unflatten(vector)))(theta)
    assert operator.entries is None
    torch.testing.assert_close(operator.dense(), expected)
    torch.testing.assert_close(operator.diagonal(), expected.diagonal())


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_what_is_diagonal_does_not_depend_on_its_size(size) -> None:
    def even(params: dict[str, torch.Tensor]) -> torch.Tensor:
        return size * sum(value.pow(4).sum() for value in params.values())

    def joint(params: dict[str, torch.Tensor]) -> torch.Tensor:
        return size * (params["weight"].sum().square() + params["bias"].square().sum())

    network = nn.Linear(3, 2).double()
    found = [RegulariserOperator(Objective(network, nn.functional.cross_entropy, each)) for each in (even, joint)]
    assert found[1].entries is None
    weights = torch.cat([value.detach().flatten() for value in network.parameters()])
    torch.testing.assert_close(found[0].entries, 12 * size * weights.square())
