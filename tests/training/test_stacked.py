import pytest
import torch

from bayes_influence.objectives import company
from bayes_influence.objectives.held import held_per_example
from bayes_influence.objectives.reduction import reduce
from bayes_influence.retraining.minimum import Minimum
from bayes_influence.retraining.proximal import ProximalBregman, held_problem
from bayes_influence.retraining.refits import losses_after
from bayes_influence.training import stacked as problems
from bayes_influence.training.deterministic import Deterministic
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.minimum import minimised
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.stacked import StackedProblem
from tests.fitted import DECAY, tanh_network


@pytest.fixture(scope="module")
def heads(train):
    """Last layers of two tanh networks, some way from their minimum."""
    (fits,) = fit_schemes(
        [Deterministic("l2", weight_decay=DECAY)], tanh_network, train, [0, 1], Schedule(40), tolerance=None
    )
    return fits


def _weighted(fits, train):
    """Members with data weights of their own, away from where they start."""
    reduction = reduce(fits, train)
    objective, whole = reduction.problem.objective, StackedProblem.of(reduction)
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(whole.weights.shape, generator=generator, dtype=torch.float64)
    theta = whole.start + torch.randn(whole.start.shape, generator=generator, dtype=torch.float64)
    return objective, whole, weights, theta


def _members(problem):
    return torch.arange(len(problem.start))


def test_the_closed_form_is_the_hessian(heads, train):
    objective, whole, weights, theta = _weighted(heads, train)
    closed = StackedProblem(objective, whole.state, whole.batch, weights, own_data=whole.own_data)
    plain = StackedProblem(objective, whole.state, whole.batch, weights, own_data=whole.own_data)
    assert closed.linear is not None
    plain.linear = None
    torch.testing.assert_close(closed.hessians(theta, _members(closed)), plain.hessians(theta, _members(plain)))


@pytest.mark.parametrize("bregman", [False, True])
def test_the_closed_form_holds_near_an_anchor(heads, train, bregman):
    objective, whole, weights, theta = _weighted(heads, train)
    weighted = StackedProblem(objective, whole.state, whole.batch, weights, own_data=whole.own_data)
    held = held_problem(objective, weighted, torch.full_like(whole.start, 0.3), bregman=bregman)
    members = _members(held)
    closed = held.hessians(theta, members)
    assert held.linear is not None
    held.linear = None
    torch.testing.assert_close(closed, held.hessians(theta, members))


def test_one_member_shares_its_data(heads, train):
    alone = StackedProblem.of(reduce(heads.select([0]), train))
    both = StackedProblem.of(reduce(heads, train))
    assert not alone.own_data
    assert alone.linear is not None
    assert both.own_data
    torch.testing.assert_close(alone.batch.inputs, both.batch.inputs[0])
    gradients = [problem.gradients(problem.start, _members(problem))[0] for problem in (alone, both)]
    torch.testing.assert_close(gradients[0][0], gradients[1][0])


@pytest.mark.parametrize("selection", ["last-layer", "all"])
def test_turns_over_the_examples_change_nothing(network, heads, train, removed, selection, monkeypatch):
    fits = heads if selection == "last-layer" else network
    whole = Minimum().refit(fits, train, removed)
    features = reduce(fits, train).features
    monkeypatch.setattr(problems, "ENTRIES", 100)
    monkeypatch.setattr(company, "ENTRIES", 100)
    monkeypatch.setattr(problems, "TANGENT_ENTRIES", 100)
    parts = Minimum().refit(fits, train, removed)
    assert parts.converged.all()
    for name, value in whole.params.items():
        torch.testing.assert_close(parts.params[name], value, rtol=0, atol=1e-9)
    torch.testing.assert_close(losses_after(parts, train), losses_after(whole, train))
    torch.testing.assert_close(reduce(fits, train).features, features)


def test_convex_refits_do_not_depend_on_where_they_start(heads, train, removed):
    polished = minimised(heads, train).members
    for damping in (None, 0.1):
        if damping is None:
            near, far = (Minimum().refit(fits, train, removed) for fits in (polished, heads))
        else:
            near = ProximalBregman(damping, tolerance=1e-11).refit(polished, train, removed)
            far = ProximalBregman(damping, tolerance=1e-11).refit(polished, train, removed)
        assert near.converged.all()
        assert far.converged.all()
        for name, value in near.params.items():
            torch.testing.assert_close(far.params[name], value, rtol=0, atol=1e-8)


def test_a_hessian_holds_what_its_columns_make_of_every_example(heads, train, monkeypatch):
    whole = StackedProblem.of(reduce(heads.taking("all"), train))
    objective, columns = heads.objective.taking("all"), heads.objective.taking("all").layout.total
    each = 1.4 * held_per_example(objective, train.batch())
    assert len(heads) > 1
    for members, entries in ((1, 1), (2, 2 * columns * len(train)), (len(heads), 10**9)):
        monkeypatch.setattr(problems, "HESSIAN_ENTRIES", entries)
        assert whole.hessian_numbers(len(heads)) == round(each * columns * len(train) * members)
        assert whole.hessian_numbers(1) == round(each * columns * len(train))
    monkeypatch.setattr(problems, "TANGENT_ENTRIES", 2 * columns)
    assert whole.hessian_numbers(len(heads)) == round(each * columns * 2)
