"""The metric of a last layer, against the dense Hessian and against L-BFGS without it."""

import pytest
import torch
from torch import nn

from bayes_influence.curvature.operators.last_layer import LastLayerOperator
from bayes_influence.data.batch import Batch
from bayes_influence.data.dataset import Dataset
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay
from bayes_influence.retraining import turns
from bayes_influence.retraining.minimum import Minimum
from bayes_influence.training import metric, minimum
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.lbfgs import minimise_lbfgs
from bayes_influence.training.metric import Metric, output_metric
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.schemes import SCHEMES
from bayes_influence.training.stacked import StackedProblem
from tests.fitted import tanh_network


def last_layer(bias: bool, features: int = 6, members: int = 2, examples: int = 40, along: float = 1.0):
    """Members at random places, each with weights of its examples; features whose sizes differ a hundredfold."""
    generator = torch.Generator().manual_seed(0)
    objective = Objective(
        nn.Linear(features, 3, bias=bias).double(), CrossEntropy(), WeightDecay(0.01), parameters="all"
    )
    sizes = torch.logspace(-1, 1, features, dtype=torch.float64)
    inputs = sizes * torch.randn(examples, features, dtype=torch.float64, generator=generator)
    batch = Batch(inputs, torch.randint(3, (examples,), generator=generator))
    start = {
        name: 0.02 * torch.randn(members, *value.shape, dtype=torch.float64, generator=generator)
        for name, value in objective.params.items()
    }
    weights = torch.rand(members, examples, dtype=torch.float64, generator=generator)
    size = objective.layout.total
    extra = along * torch.rand(members, size, dtype=torch.float64, generator=generator)
    return StackedProblem(objective, start, batch, weights, metric=extra)


@pytest.mark.parametrize("bias", [True, False])
def test_the_mean_block_is_that_of_the_dense_hessian(bias):
    problem = last_layer(bias)
    dense = problem.hessians(problem.start, problem.everyone)
    for member in range(2):
        block, places = problem.mean_block(member)
        rows = torch.empty_like(places)
        rows[places] = torch.arange(len(places))
        by_output = dense[member][rows][:, rows].unflatten(1, (3, -1)).unflatten(0, (3, -1))
        expected = torch.stack([by_output[output, :, output] for output in range(3)]).mean(0)
        torch.testing.assert_close(block, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("bias", [True, False])
def test_steps_and_slopes_belong_to_one_change_of_variables(bias):
    """theta = L'^-1 u: a step of e_k changes J by the k-th entry of L^-1 g, and |g| <= ||L|| |L^-1 g|."""
    problem = last_layer(bias)
    found = output_metric(problem, 1)
    size = problem.layout.total
    gradient = torch.randn(size, dtype=torch.float64)
    steps = torch.stack([found.step(row) for row in torch.eye(size, dtype=torch.float64)])
    torch.testing.assert_close(steps @ gradient, found.slope(gradient))
    assert gradient.norm() <= found.stretch * found.slope(gradient).norm()
    block, places = problem.mean_block(1)
    matrix = torch.block_diag(block, block, block)[places][:, places]
    torch.testing.assert_close(steps @ matrix @ steps.T, torch.eye(size, dtype=torch.float64))


def test_refits_cost_few_iterations_though_features_differ_in_size():
    problem = last_layer(True, features=30, examples=200, along=0.0)
    ends = problem.layout.flatten(minimise_lbfgs(problem, tolerance=1e-6).free)
    control, without = problem.from_start(ends), problem.from_start(ends)
    without.weights = problem.weights.clone()
    without.weights[:, 3] = 0.0
    plain = minimise_lbfgs(without, tolerance=1e-6)
    found = minimise_lbfgs(without, tolerance=1e-6, metrics=[output_metric(control, index) for index in range(2)])
    assert found.converged.all()
    assert 0 < found.iterations < plain.iterations / 4
    assert float((found.values - plain.values).abs().max()) < 1e-9


def test_what_is_not_positive_definite_or_costs_too_much_is_no_metric(monkeypatch):
    saddle = torch.eye(4, dtype=torch.float64)
    saddle[0, 0] = -1.0
    assert Metric.of(saddle) is None
    problem = last_layer(True)
    for name in ("BLOCK_ENTRIES", "BLOCK_OPERATIONS"):
        with monkeypatch.context() as patched:
            patched.setattr(metric, name, 10)
            assert output_metric(problem, 0) is None
    assert output_metric(problem, 0) is not None
    network = nn.Sequential(nn.Linear(6, 3), nn.Tanh(), nn.Linear(3, 3)).double()
    whole = Objective(network, CrossEntropy(), WeightDecay(0.1), parameters="all")
    start = {name: value.unsqueeze(0) for name, value in whole.params.items()}
    assert output_metric(StackedProblem(whole, start, problem.batch), 0) is None


def test_refits_of_a_layer_too_large_for_hessians_are_those_of_newton(train, removed, monkeypatch):
    """The metric is found once for the refits of a network, and the minima are the same."""
    (fits,) = fit_schemes([SCHEMES["weight-decay"]], tanh_network, train, [4, 7], Schedule(60, 0.02))
    exact = Minimum(1e-8).refit(fits, train, removed)
    monkeypatch.setattr(minimum, "DENSE_SIZE", 3)
    asked = []
    monkeypatch.setattr(
        turns, "output_metric", lambda problem, member: asked.append(member) or output_metric(problem, member)
    )
    found = Minimum(1e-8).refit(fits, train, removed)
    assert len(asked) == 2
    assert found.converged.all()
    for name, value in exact.params.items():
        torch.testing.assert_close(found.params[name], value, rtol=0, atol=1e-6)


def test_the_operator_s_block_is_a_mean_over_all_parts(monkeypatch):
    problem = last_layer(True)
    data = Dataset(problem.batch.inputs, problem.batch.targets, torch.arange(40))
    there = problem.linear.at(problem.linear.params)
    whole = LastLayerOperator(there, data).mean_block()
    monkeypatch.setattr("bayes_influence.curvature.operators.last_layer.GRAM_SIZE", 7)
    torch.testing.assert_close(LastLayerOperator(there, data).mean_block()[0], whole[0])
