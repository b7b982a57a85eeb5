"""Kinds of curvature, dampings and solvers: every pair that promises exactness against the dense inverse."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from bayes_influence.curvature import cost
from bayes_influence.curvature.damping import DiagonalDamping, FisherDamping
from bayes_influence.curvature.operators.gauss_newton import EmpiricalFisherOperator, GaussNewton, GaussNewtonOperator
from bayes_influence.curvature.operators.hessian import HessianOperator
from bayes_influence.curvature.operators.last_layer import LastLayerOperator
from bayes_influence.curvature.operators.whitened import WhitenedOperator
from bayes_influence.curvature.solvers.conjugate_gradients import ConjugateGradients
from bayes_influence.curvature.solvers.registry import SOLVERS
from bayes_influence.curvature.solvers.solution import NotConvergedWarning
from bayes_influence.data.dataset import Dataset
from bayes_influence.influence.influence import Influence
from bayes_influence.influence.problem import FittedProblem
from bayes_influence.influence.response import make_response
from bayes_influence.objectives.derivatives import dense_hessian, per_example_gradients
from bayes_influence.objectives.likelihoods import GaussianNoise
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay
from bayes_influence.training.noise import LearnedNoise

DENSE = {
    "hessian": lambda objective, train: dense_hessian(objective, train.batch()),
    "ggn": lambda objective, train: GaussNewtonOperator(objective, train).dense(),
    "empirical-fisher": lambda objective, train: EmpiricalFisherOperator(objective, train).dense(),
}


@pytest.mark.parametrize("curvature", list(DENSE))
@pytest.mark.parametrize("solver", ["auto", "cholesky", "eigendecomposition", "conjugate-gradients", "minres"])
@pytest.mark.parametrize("name", ["linear", "deep"])
def test_scores_of_every_exact_solver(request, train, test, curvature, solver, name):
    objective = request.getfixturevalue(name)
    matrix = DENSE[curvature](objective, train)
    damped = matrix + 0.1 * torch.eye(len(matrix), dtype=torch.float64)
    left, right = (per_example_gradients(objective, part.batch()) for part in (test, train))
    expected = -left @ torch.linalg.solve(damped, right.T)
    exact = SOLVERS[solver](tolerance=1e-11) if solver in ("conjugate-gradients", "minres") else solver
    scores = Influence(objective, train, curvature=curvature, solver=exact, damping=0.1).on_loss(test)
    torch.testing.assert_close(scores.values, expected, rtol=1e-8, atol=1e-9)
    assert scores.converged
    assert scores.curvature == curvature


def test_gauss_newton_and_hessian_differ_in_a_whole_network_and_agree_in_a_last_layer(deep, train):
    problem = FittedProblem(deep, train)
    pair = [make_response(problem, kind, 0.1).operator.dense() for kind in ("hessian", "ggn")]
    assert (pair[0] - pair[1]).abs().max() > 1e-3
    head = FittedProblem(replace(deep, parameters="last-layer"), train)
    assert type(GaussNewton().operator(head.reduced, head.data)) is LastLayerOperator
    torch.testing.assert_close(
        make_response(head, "ggn", 0.1).operator.dense(), make_response(head, "hessian", 0.1).operator.dense()
    )


def test_ekfac_is_inverted_in_its_own_basis(deep, train, test):
    influence = Influence(deep, train, curvature="ekfac", damping=0.1)
    scores = influence.on_loss(test)
    matrix = influence.response.operator.dense()
    left, right = (per_example_gradients(deep, part.batch()) for part in (test, train))
    torch.testing.assert_close(scores.values, -left @ torch.linalg.solve(matrix, right.T), rtol=1e-8, atol=1e-9)


def test_a_solver_that_stops_early_says_so_in_the_scores(deep, train, test):
    hasty = ConjugateGradients(max_iterations=2)
    influence = Influence(deep, train, damping=0.01, solver=hasty)
    with pytest.warns(NotConvergedWarning, match="stopped at relative residual"):
        scores = influence.on_loss(test)
    assert not scores.converged
    exact = Influence(deep, train, damping=0.01).on_loss(test)
    smallest = exact.smallest_eigenvalue
    bound = torch.outer(scores.residual_norms, scores.gradient_norms) / smallest
    assert ((scores.values - exact.values).abs() <= bound).all()


def test_curvature_of_ones_own(deep, train, test):
    def half(objective, data):
        return HessianOperator(objective, data, batch_size=7)

    scores = Influence(deep, train, curvature=half, damping=0.1).on_loss(test)
    assert scores.curvature == "half"
    torch.testing.assert_close(scores.values, Influence(deep, train, damping=0.1).on_loss(test).values)


@pytest.mark.parametrize("curvature", ["ggn", "empirical-fisher", "ekfac"])
def test_automatic_damping_is_a_tenth_of_the_mean_curvature(deep, train, curvature):
    influence = Influence(deep, train, curvature=curvature)
    matrix = influence.response.curvature.operator(influence.problem.reduced, influence.problem.data)
    assert influence.damping.delta == pytest.approx(0.1 * float(matrix.trace()) / 31, rel=1e-6)


def test_automatic_damping_uses_the_gauss_newton_trace_under_a_hessian(deep, train):
    trace = float(GaussNewtonOperator(deep, train).trace())
    assert Influence(deep, train).damping.delta == pytest.approx(0.1 * trace / 31)


def test_automatic_damping_outweighs_negative_curvature(deep, train):
    saddle = deep.at({name: 3 * value for name, value in deep.params.items()})
    smallest = float(torch.linalg.eigvalsh(dense_hessian(saddle, train.batch()))[0])
    trace = float(GaussNewtonOperator(saddle, train).trace())
    assert -smallest > 0.1 * trace / 31
    assert Influence(saddle, train).damping.delta == pytest.approx(-1.1 * smallest)
    assert Influence(saddle, train, curvature="ggn").damping.delta == pytest.approx(0.1 * trace / 31)


@pytest.mark.parametrize("limit", [("DENSE_SIZE", 30), ("DENSE_WORK", 1000)])
def test_the_trace_of_a_large_problem_is_estimated(deep, train, monkeypatch, limit):
    monkeypatch.setattr(cost, *limit)
    matrix = GaussNewtonOperator(deep, train).dense()
    # Twice the squares beside the diagonal are the variance of one of 16 probes.
    error = (2 * (matrix.square().sum() - matrix.diagonal().square().sum()) / 16).sqrt()
    found = 10 * 31 * Influence(deep, train, curvature="ggn").damping.delta
    assert 0 < abs(found - float(matrix.trace())) < 3 * float(error) < float(matrix.trace())


class Stated(WeightDecay):
    """A penalty that says of how many examples it is a share, as a KL divergence does."""

    n_train = 50


@pytest.mark.parametrize(
    ("examples", "weight", "stated"), [(50, 1, None), (40, 1, 50), (40, 50 / 40, None), (50, 0.5, None)]
)
def test_the_examples_of_a_regulariser_are_those_that_were_trained_on(deep, train, examples, weight, stated):
    objective = replace(deep, regulariser=Stated(0.1), regulariser_weight=weight)
    found = replace(make_response(FittedProblem(objective, train), damping=1.0), n_train=examples)
    assert found.regulariser_examples == stated
    plain = replace(objective, regulariser=WeightDecay(0.1))
    assert make_response(FittedProblem(plain, train), damping=1.0).regulariser_examples is None


def test_dampings_are_taken_as_they_are(deep, train):
    metric = torch.arange(1.0, 32.0, dtype=torch.float64)
    influence = Influence(deep, train, damping=DiagonalDamping(0.1, metric))
    hessian = dense_hessian(deep, train.batch())
    torch.testing.assert_close(influence.response.operator.dense(), hessian + torch.diag(0.1 * metric))
    assert Influence(deep, train, damping=FisherDamping(0.1)).damping == FisherDamping(0.1)


def test_something_that_is_no_damping_is_refused(deep, train):
    with pytest.raises(TypeError, match="damping"):
        make_response(FittedProblem(deep, train), damping=[0.1])


def test_whitening_is_a_congruence(deep, train):
    metric = torch.rand(31, dtype=torch.float64) + 0.5
    operator = HessianOperator(deep, train)
    whitened = WhitenedOperator(operator, metric)
    expected = operator.dense() / torch.outer(metric.sqrt(), metric.sqrt())
    torch.testing.assert_close(whitened.dense(), expected)
    torch.testing.assert_close(whitened @ torch.eye(31, dtype=torch.float64), expected)
    torch.testing.assert_close(whitened.diagonal(), expected.diagonal())


def test_automatic_damping_holds_where_a_likelihood_makes_the_gauss_newton_matrix_indefinite():
    """Noise that is learned: -log p is not convex in mean and log s together, where errors are larger than s."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(20, 2, generator=generator, dtype=torch.float64)
    data = Dataset(inputs, torch.full((20, 1), 3.0, dtype=torch.float64), torch.arange(20))
    network = LearnedNoise(nn.Linear(2, 1).double(), initial=0.5)
    objective = Objective(network, GaussianNoise(None), WeightDecay(1e-3), parameters="all")
    smallest = float(torch.linalg.eigvalsh(GaussNewtonOperator(objective, data).dense())[0])
    assert smallest < 0
    response = make_response(FittedProblem(objective, data), "ggn")
    assert response.damping.delta == pytest.approx(-1.1 * smallest, rel=1e-6)
    assert float(torch.linalg.eigvalsh(response.operator.dense())[0]) > 0
