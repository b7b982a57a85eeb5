"""The memory-perturbation equation under Laplace posteriors, against conjugate updates and Gauss-Newton influence."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from bayes_influence.data.dataset import Dataset
from bayes_influence.influence.influence import Influence
from bayes_influence.influence.memory_perturbation import (
    GaussianPosterior,
    laplace_posterior,
    memory_perturbation,
    output_changes,
)
from bayes_influence.objectives.likelihoods import GaussianNoise
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay
from bayes_influence.training.minimum import minimum_of


@pytest.fixture
def regression():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    targets = inputs.sum(dim=1, keepdim=True) + torch.randn(20, 1, generator=generator, dtype=torch.float64)
    data = Dataset(inputs, targets, torch.arange(20))
    objective = Objective(nn.Linear(3, 1, bias=False).double(), GaussianNoise(), WeightDecay(0.05))
    return minimum_of(objective, data), data


def test_removal_from_a_conjugate_posterior_is_exact(regression):
    objective, data = regression
    moved = memory_perturbation(laplace_posterior(objective, data), [4])
    rest = data.without(4)
    refit = minimum_of(replace(objective, regulariser_weight=20 / 19), rest)
    torch.testing.assert_close(moved.mean_change[0], (refit.params["weight"] - objective.params["weight"])[0])
    precision = rest.inputs.T @ rest.inputs + torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(moved.precision[0], precision)


def test_outputs_move_by_variance_times_error(regression):
    objective, data = regression
    moved = memory_perturbation(laplace_posterior(objective, data))
    covariance = torch.linalg.inv(data.inputs.T @ data.inputs + torch.eye(3, dtype=torch.float64))
    variance = (data.inputs @ covariance * data.inputs).sum(dim=1, keepdim=True)
    error = data.inputs @ objective.params["weight"].T - data.targets
    torch.testing.assert_close(moved.output_change, variance * error)
    true = data.inputs @ moved.mean_change.T
    exact = variance * error / (1 - variance)
    torch.testing.assert_close(true.diagonal().unsqueeze(1), exact)


@pytest.mark.parametrize("parameters", ["all", "last-layer"])
def test_laplace_gives_gauss_newton_influence(deep, train, parameters):
    posterior = laplace_posterior(deep, train, parameters=parameters)
    influence = Influence(deep, train, curvature="ggn", damping=0.0, parameters=parameters)
    moved = memory_perturbation(posterior)
    # (S - G_i)^-1 g_i = S^-1 g_i + S^-1 G_i (S - G_i)^-1 g_i
    first = influence.on_parameters()
    corrected = torch.stack(
        [
            torch.linalg.solve(posterior.precision, (posterior.precision - precision) @ change)
            for precision, change in zip(moved.precision, moved.mean_change, strict=True)
        ]
    )
    torch.testing.assert_close(moved.mean_change - corrected, first, rtol=1e-7, atol=1e-9)


def test_a_diagonal_laplace_is_the_diagonal(deep, train):
    full, diagonal = (laplace_posterior(deep, train, structure) for structure in ("full", "diagonal"))
    torch.testing.assert_close(diagonal.precision, full.precision.diagonal())
    whole, part = (memory_perturbation(posterior, train.ids[:2]) for posterior in (full, diagonal))
    torch.testing.assert_close(part.precision, torch.diagonal(whole.precision, dim1=1, dim2=2))
    torch.testing.assert_close(
        part.mean_change * part.precision, (whole.precision @ whole.mean_change.unsqueeze(2))[..., 0]
    )
    for index, change in enumerate(part.output_change):
        inputs, target = train.inputs[index : index + 1], train.targets[index : index + 1]
        jacobian = torch.func.jacrev(lambda theta, inputs=inputs: deep.flat.outputs(theta, inputs)[0])(deep.flat.theta)
        error = deep.outputs(deep.params, inputs)[0].softmax(0) - torch.nn.functional.one_hot(target, 3)[0]
        torch.testing.assert_close(change, jacobian @ ((jacobian.T @ error) / diagonal.precision))


@pytest.mark.parametrize("structure", ["full", "diagonal"])
def test_changes_of_outputs_come_alone_too(deep, train, structure):
    posterior = laplace_posterior(deep, train, structure)
    whole = memory_perturbation(posterior).output_change
    torch.testing.assert_close(output_changes(posterior), whole)
    torch.testing.assert_close(output_changes(posterior, train.ids[[4, 2]]), whole[[4, 2]])


def test_a_precision_below_one_is_positive(regression):
    """What is refused is a precision of 0 or less, whatever the units."""
    _, data = regression
    small = replace(data, inputs=0.01 * data.inputs)
    objective = Objective(nn.Linear(3, 1, bias=False).double(), GaussianNoise(), WeightDecay(1e-6))
    moved = memory_perturbation(laplace_posterior(objective, small, structure="diagonal"))
    expected = small.inputs.square().sum(dim=0) - small.inputs.square() + 20 * 1e-6
    torch.testing.assert_close(moved.precision, expected)
    assert float(moved.precision.max()) < 1


def test_an_example_that_carries_the_posterior_alone_is_named():
    data = Dataset(torch.eye(2, dtype=torch.float64), torch.ones(2, 1, dtype=torch.float64), torch.tensor([5, 6]))
    objective = Objective(nn.Linear(2, 1, bias=False).double(), GaussianNoise())
    with pytest.raises(ValueError, match=r"removing the examples \[5, 6\] leaves no positive definite precision"):
        memory_perturbation(laplace_posterior(objective, data))


def test_an_unknown_structure_is_refused(deep, train):
    with pytest.raises(ValueError, match="structure must be one of full, diagonal, got 'kron'"):
        laplace_posterior(deep, train, "kron")


def test_masks_and_repeated_ids_name_no_examples(as_installed):
    data = Dataset(torch.eye(2, dtype=torch.float64), torch.ones(2, 1, dtype=torch.float64), torch.tensor([5, 6]))
    posterior = GaussianPosterior(None, data, torch.eye(2, dtype=torch.float64), variational=False)
    with pytest.raises(TypeError, match=r"ids must be whole numbers, got booleans; choose ids with a mask"):
        memory_perturbation(posterior, torch.tensor([False, True]))
    with pytest.raises(ValueError, match="ids must be unique"):
        memory_perturbation(posterior, [5, 5])
