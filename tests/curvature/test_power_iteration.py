import pytest
import torch
from torch import nn

from bayes_influence.curvature.operators.hessian import HessianOperator
from bayes_influence.curvature.spectrum import extreme_eigenvalues, power_iteration_pyhessian
from bayes_influence.objectives.derivatives import dense_hessian
from bayes_influence.objectives.regularisers import WeightDecay

mean_loss = nn.functional.cross_entropy


def test_extreme_eigenvalues_are_algebraic(random_matrix) -> None:
    extremes = extreme_eigenvalues(random_matrix(torch.tensor([-5.0, -1.0, 0.0, 2.0])))
    assert extremes.largest == pytest.approx(2.0)
    assert extremes.smallest == pytest.approx(-5.0)


def test_extreme_eigenvalues_of_a_hessian(make_objective, classification) -> None:
    objective = make_objective()
    eigenvalues = torch.linalg.eigvalsh(dense_hessian(objective, classification.batch()))
    extremes = extreme_eigenvalues(HessianOperator(objective, classification, batch_size=10))
    assert extremes.largest == pytest.approx(float(eigenvalues[-1]), rel=1e-12)
    assert extremes.smallest == pytest.approx(float(eigenvalues[0]), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_power_iteration_finds_the_largest_magnitude(make_objective, classification, dtype, decay) -> None:
    objective = make_objective(decay=decay, dtype=dtype)
    data = classification.to(dtype=dtype)
    eigenvalues = torch.linalg.eigvalsh(dense_hessian(objective, data.batch()).double())
    largest = float(eigenvalues[eigenvalues.abs().argmax()])
    found = power_iteration_pyhessian(
        objective.network, mean_loss, data.batch(), max_iter=1000, tol=1e-7, regulariser=WeightDecay(decay)
    )
    assert found == pytest.approx(largest, rel=1e-3)


def test_without_a_regulariser_it_sees_the_data_loss_only(make_objective, classification) -> None:
    network = make_objective().network
    alone = power_iteration_pyhessian(network, mean_loss, classification.batch(), 1000, 1e-9)
    decayed = power_iteration_pyhessian(
        network, mean_loss, classification.batch(), 1000, 1e-9, regulariser=WeightDecay(0.5)
    )
    assert decayed - alone == pytest.approx(0.5, abs=1e-3)


def test_power_iteration_at_other_parameters(make_objective, classification) -> None:
    objective = make_objective(decay=0.0)
    moved = objective.at({name: 0.5 * value for name, value in objective.params.items()})
    eigenvalues = torch.linalg.eigvalsh(dense_hessian(moved, classification.batch()))
    found = power_iteration_pyhessian(
        objective.network, mean_loss, classification.batch(), 1000, 1e-9, params=moved.params
    )
    assert found == pytest.approx(float(eigenvalues[eigenvalues.abs().argmax()]), rel=1e-3)


def test_power_iteration_leaves_everything_as_it_was(classification) -> None:
    network = nn.Sequential(nn.Linear(4, 5), nn.Dropout(), nn.Linear(5, 3)).double().train()
    state = torch.get_rng_state()
    first = power_iteration_pyhessian(network, mean_loss, classification.batch())
    assert network.training
    assert network[1].training
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.get_default_dtype() == torch.float32
    assert torch.equal(torch.get_rng_state(), state)
    assert power_iteration_pyhessian(network, mean_loss, classification.batch()) == first
