from dataclasses import replace

import numpy as np
import scipy.optimize
import torch

from bayes_influence.objectives.reduction import reduce
from bayes_influence.training.lbfgs import minimise_lbfgs
from bayes_influence.training.metric import Metric
from bayes_influence.training.newton import STEEPER, minimise_newton
from bayes_influence.training.stacked import StackedProblem


def _perturbed(fits, train, distance):
    generator = torch.Generator().manual_seed(0)
    params = {
        name: value + distance * torch.randn(value.shape, generator=generator, dtype=value.dtype)
        for name, value in fits.params.items()
    }
    return StackedProblem.of(reduce(replace(fits, params=params), train))


def test_lbfgs_finds_the_minimum_that_newton_finds(regression, train):
    found = minimise_lbfgs(_perturbed(regression, train, 0.5), tolerance=1e-8)
    exact = minimise_newton(_perturbed(regression, train, 0.5), tolerance=1e-12)
    assert found.converged.all()
    assert float(found.gradient_norms.max()) <= 1e-8
    torch.testing.assert_close(found.values, exact.values, rtol=0, atol=1e-14)
    for name, value in exact.free.items():
        torch.testing.assert_close(found.free[name], value, rtol=0, atol=1e-6)


def test_the_gradient_norm_reported_is_that_of_the_end(regression, train):
    problem = _perturbed(regression, train, 0.5)
    found = minimise_lbfgs(problem, tolerance=1e-3)
    ends = problem.layout.flatten(found.free)
    gradients, values = problem.gradients(ends, torch.arange(2))
    torch.testing.assert_close(found.gradient_norms, gradients.norm(dim=1))
    torch.testing.assert_close(found.values, values)


def test_what_does_not_converge_is_marked(regression, train):
    found = minimise_lbfgs(_perturbed(regression, train, 0.5), tolerance=1e-8, max_iterations=2)
    assert not found.converged.any()
    assert found.iterations == 2


def test_scipy_is_asked_in_double_precision_for_an_entry_that_the_norm_allows(regression, train, monkeypatch):
    """Of P entries below t / sqrt(P) the norm is at most t."""
    asked, found = [], scipy.optimize.minimize

    def minimize(function, start, **options):
        asked.append((start.dtype, function(start)[1].dtype, options["options"]["gtol"]))
        return found(function, start, **options)

    monkeypatch.setattr(scipy.optimize, "minimize", minimize)
    problem = _perturbed(regression, train, 0.5)
    minimise_lbfgs(problem, tolerance=1e-3)
    assert asked == [(np.float64, np.float64, 1e-3 / problem.start.shape[1] ** 0.5)] * 2


def test_a_minimum_is_left_as_it_is(regression, train):
    problem = _perturbed(regression, train, 0.0)
    found = minimise_lbfgs(problem, tolerance=1e-6)
    assert found.iterations == 0
    assert torch.equal(problem.layout.flatten(found.free), problem.start)


def test_the_metric_of_a_hessian_saves_iterations_and_changes_no_minimum(regression, train):
    problem = _perturbed(regression, train, 0.05)
    plain = minimise_lbfgs(problem, tolerance=1e-8)
    hessians = problem.hessians(problem.start, problem.everyone)
    metrics = [Metric.of(hessian) for hessian in hessians]
    found = minimise_lbfgs(problem, tolerance=1e-8, metrics=metrics)
    assert found.converged.all()
    assert float(found.gradient_norms.max()) <= 1e-8
    assert 0 < found.iterations < plain.iterations / 2
    for name, value in plain.free.items():
        torch.testing.assert_close(found.free[name], value, rtol=0, atol=1e-6)


def test_a_member_that_walks_away_without_end_is_given_up_and_others_are_not(endless):
    problem, slopes = endless
    found = minimise_lbfgs(problem, tolerance=1e-8)
    assert found.converged.tolist() == [True, False, False]
    assert float(found.free["weight"][0].abs()) <= 1e-8
    assert (found.gradient_norms[1:] > STEEPER * slopes[1:].abs()).all()
    assert torch.isfinite(found.values).all()
    assert found.iterations < 50
