"""Eq. 18 as printed: its gradient against differences, its ball against an independent solver, and where it ends."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from bayes_influence.experiments.papers.groups.data import gaussian_blobs
from bayes_influence.experiments.papers.groups.orders import AS_PRINTED, expansions
from bayes_influence.experiments.papers.groups.printed_selection import (
    printed_effect,
    printed_selection,
    project_l1_ball,
)
from bayes_influence.experiments.papers.regression import fitted_regression
from bayes_influence.influence.influence import Influence


@pytest.fixture(scope="module")
def problem():
    split = gaussian_blobs(60, 40, seed=0)
    influence = Influence(fitted_regression(split.train, 0.05), split.train, damping=0.0)
    test = split.test.select([0])
    slope = influence.problem.gradients(*influence.problem.taken(test)).mean(dim=0)
    return influence, test, slope, influence.response.solve(slope).value


def test_the_effect_of_a_group_is_that_of_the_printed_signs(problem):
    influence, _, slope, solved = problem
    membership = torch.zeros(60, dtype=torch.float64)
    membership[3:15] = 1.0
    change = expansions(influence, influence.problem.data.ids[3:15], "fixed")[AS_PRINTED]
    assert printed_effect(influence, solved, membership)[0] == pytest.approx(float(slope @ change), rel=1e-9)


def test_the_gradient_is_that_of_the_effect(problem):
    influence, _, _, solved = problem
    generator = torch.Generator().manual_seed(0)
    membership, direction = torch.rand(2, 60, generator=generator, dtype=torch.float64)
    slope = printed_effect(influence, solved, membership)[1]
    ends = [printed_effect(influence, solved, membership + sign * 1e-4 * direction)[0] for sign in (1, -1)]
    assert float(slope @ direction) == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-7)


@pytest.mark.parametrize("radius", [0.5, 2.0, 50.0])
def test_the_nearest_point_of_the_ball_is_found(radius):
    u = torch.randn(6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = project_l1_ball(u, radius)
    assert float(found.abs().sum()) <= radius + 1e-12
    # |v_i| = a_i + b_i with v = a - b, both at least 0: a smooth problem for another solver.
    best = minimize(
        lambda parts: ((parts[:6] - parts[6:] - u.numpy()) ** 2).sum(),
        np.zeros(12),
        bounds=[(0, None)] * 12,
        constraints={"type": "ineq", "fun": lambda parts: radius - parts.sum()},
        options={"ftol": 1e-14, "maxiter": 500},
    )
    np.testing.assert_allclose(found.numpy(), best.x[:6] - best.x[6:], atol=1e-5)


def test_the_group_has_its_size_and_begins_with_those_of_largest_membership(problem):
    influence, test, _, _ = problem
    ids = printed_selection(influence, test, 6)
    assert len(set(ids.tolist())) == 6
    first = influence.select_group(test, 6, method="first-order").ids
    assert len(set(ids.tolist()) & set(first.tolist())) >= 3
