"""The paper's expansions against the derivatives of the minimum in the removed weights."""

from math import isnan
from typing import get_args

import pytest
import torch

from bayes_influence.curvature.errors import IndefiniteCurvatureError
from bayes_influence.experiments.papers.groups.data import gaussian_classes
from bayes_influence.experiments.papers.groups.orders import (
    AS_PRINTED,
    CHEBYSHEV,
    EQUATION_17,
    ESTIMATORS,
    FIRST,
    NEWTON,
    WITH_THIRD,
    expansions,
    predicted_changes,
)
from bayes_influence.experiments.papers.regression import fitted_regression
from bayes_influence.influence import groups
from bayes_influence.influence.groups import reweighting_response
from bayes_influence.influence.influence import Influence
from bayes_influence.objectives.reweighting import Convention, removal_weights


@pytest.fixture(scope="module")
def regression():
    split = gaussian_classes(80, 20, seed=0)
    objective = fitted_regression(split.train, 0.05)
    return split, objective, Influence(objective, split.train, damping=0.0)


@pytest.mark.parametrize("convention", get_args(Convention))
def test_with_the_third_derivative_it_is_the_second_order_of_the_weights(regression, convention):
    split, _, influence = regression
    ids = split.train.ids[:20]
    found = expansions(influence, ids, convention)
    problem = influence.problem
    change = removal_weights(problem.data.positions(ids), convention, problem.theta.new_ones(80))
    torch.testing.assert_close(found[FIRST], reweighting_response(influence.response, change, 1))
    torch.testing.assert_close(found[WITH_THIRD], reweighting_response(influence.response, change, 2))


def test_equation_17_is_the_second_order_of_a_quadratic_and_eqs_9_and_16_have_the_other_sign(regression):
    """Without T the series of -A_w^-1 dg in dH is d1 - A^-1 dH d1 + ..., with A_w = A + dH, for whatever group."""
    split, _, influence = regression
    ids = split.train.ids[5:25]
    found = expansions(influence, ids, "fixed")
    problem = influence.problem
    curvature = influence.response.operator.dense()
    rows = problem.data.positions(ids)
    logits = torch.func.functional_call(problem.reduced.network, problem.reduced.params, (problem.data.inputs[rows],))
    p = torch.softmax(logits, dim=-1)
    x = torch.cat([problem.data.inputs[rows], torch.ones(20, 1, dtype=torch.float64)], dim=1)
    cores = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    group = torch.einsum("nab,ni,nj->aibj", cores, x, x)
    # The parameters lie as weight (2 x 5), then bias (2): the axis of the inputs has the bias last.
    order = [(a, i) for a in range(2) for i in range(5)] + [(a, 5) for a in range(2)]
    change = -torch.stack([torch.stack([group[a, i, b, j] for b, j in order]) for a, i in order]) / 80
    second = -torch.linalg.solve(curvature, change @ found[FIRST])
    torch.testing.assert_close(found[EQUATION_17] - found[FIRST], second)
    torch.testing.assert_close(found[AS_PRINTED] - found[FIRST], -second)


def test_every_estimator_predicts_a_change_of_the_loss(regression):
    split, objective, influence = regression
    test, ids = split.test.select([0]), split.train.ids[:8]
    found, bend = predicted_changes(influence, ids, "renormalised", test)
    assert tuple(found) == ESTIMATORS
    theta, batch = objective.flat.theta, test.batch()
    slope = torch.func.grad(lambda at: objective.flat.losses(at, batch).sum())(theta)
    first = expansions(influence, ids, "renormalised")[FIRST]
    assert found[FIRST] == pytest.approx(float(slope @ first))
    for name, order in ((NEWTON, "newton"), (CHEBYSHEV, "newton-chebyshev")):
        group = influence.of_group(ids, order=order, convention="renormalised")
        assert found[name] == pytest.approx(float(group.on_loss(test)))
        assert bend == influence.of_group(ids, order="newton-chebyshev", convention="renormalised").bend


def test_a_group_without_which_the_curvature_is_indefinite_has_expansions_and_no_steps(regression, monkeypatch):
    split, _, influence = regression
    test, ids = split.test.select([0]), split.train.ids[:8]

    def refuse(response, positions, convention):
        raise IndefiniteCurvatureError(-1.0, "cholesky")

    monkeypatch.setattr(groups, "remaining", refuse)
    found, bend = predicted_changes(influence, ids, "renormalised", test)
    assert tuple(found) == ESTIMATORS
    assert [isnan(found[name]) for name in ESTIMATORS] == [False] * 4 + [True] * 2
    assert isnan(bend)
