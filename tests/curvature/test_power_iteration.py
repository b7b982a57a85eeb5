import pytest
import torch
from torch import nn

from bayes_influence.curvature.spectrum import power_iteration_pyhessian, trace_pyhessian
from bayes_influence.objectives.derivatives import dense_hessian
from bayes_influence.objectives.regularisers import WeightDecay

mean_loss = nn.functional.cross_entropy


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


@pytest.mark.parametrize("estimate", [power_iteration_pyhessian, trace_pyhessian])
def test_an_estimate_depends_on_its_seed_and_not_on_what_came_before(make_objective, classification, estimate) -> None:
    network, batch = make_objective().network, classification.batch()
    first = estimate(network, mean_loss, batch, 3, 1e-9)
    torch.rand(7)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    assert estimate(network, mean_loss, batch, 3, 1e-9) == first
    assert estimate(network, mean_loss, batch, 3, 1e-9, seed=1) != first


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_trace_within_the_monte_carlo_error_of_its_probes(make_objective, classification, dtype) -> None:
    objective = make_objective(decay=0.3, dtype=dtype)
    data = classification.to(dtype=dtype)
    matrix = dense_hessian(objective, data.batch())
    found = trace_pyhessian(
        objective.network, mean_loss, data.batch(), max_iter=400, tol=0.0, regulariser=objective.regulariser
    )
    # The variance of one probe of random signs is twice the sum of the squared off-diagonal entries.
    error = (2 * (matrix.square().sum() - matrix.diagonal().square().sum()) / 400).sqrt()
    assert abs(found - float(matrix.trace())) < 4 * float(error)
