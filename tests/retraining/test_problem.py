import pytest
import torch

from bayes_influence.objectives.head import Head, has_head
from bayes_influence.retraining import problem as problems
from bayes_influence.retraining.minimum import newton_refits, polished_fits
from bayes_influence.retraining.problem import RefitProblem, refit_problem, stacked_features
from bayes_influence.retraining.proximal import proximal_problem, proximal_refits
from bayes_influence.retraining.refits import losses_after
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.newton import StackedProblem
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.schemes import Deterministic
from tests.retraining.conftest import DECAY, tanh_network


@pytest.fixture(scope="module")
def heads(train):
    """Last layers of two tanh networks, some way from their minimum."""
    (fits,) = fit_schemes(
        [Deterministic("l2", weight_decay=DECAY)], tanh_network, train, [0, 1], Schedule(40), tolerance=None
    )
    return fits


def _weighted(fits, train):
    """Members with data weights of their own, away from where they start."""
    objective, whole = refit_problem(fits.objective, fits.params, train)
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(whole.weights.shape, generator=generator, dtype=torch.float64)
    theta = whole.start + torch.randn(whole.start.shape, generator=generator, dtype=torch.float64)
    return objective, whole, weights, theta


def _members(problem):
    return torch.arange(len(problem.start))


def test_the_closed_form_is_the_hessian(heads, train):
    objective, whole, weights, theta = _weighted(heads, train)
    closed = RefitProblem(objective, whole.params, whole.batch, weights, own_data=whole.own_data)
    plain = StackedProblem(objective, whole.params, whole.batch, weights, own_data=whole.own_data)
    assert closed.linear is not None
    torch.testing.assert_close(closed.hessians(theta, _members(closed)), plain.hessians(theta, _members(plain)))


@pytest.mark.parametrize("bregman", [False, True])
def test_the_closed_form_holds_near_an_anchor(heads, train, bregman):
    objective, whole, weights, theta = _weighted(heads, train)
    weighted = RefitProblem(objective, whole.params, whole.batch, weights, own_data=whole.own_data)
    held = proximal_problem(objective, weighted, torch.full_like(whole.start, 0.3), bregman=bregman)
    members = _members(held)
    expected = StackedProblem.hessians(held, theta, members)
    torch.testing.assert_close(held.hessians(theta, members), expected)


def test_one_member_shares_its_data(heads, train):
    own = {name: value[:1] for name, value in heads.params.items()}
    _, alone = refit_problem(heads.objective, own, train)
    _, both = refit_problem(heads.objective, heads.params, train)
    assert not alone.own_data
    assert alone.linear is not None
    assert both.own_data
    torch.testing.assert_close(alone.batch.inputs, both.batch.inputs[0])
    gradients = [problem.gradients(problem.start, _members(problem))[0] for problem in (alone, both)]
    torch.testing.assert_close(gradients[0][0], gradients[1][0])


@pytest.mark.parametrize("selection", ["last-layer", "all"])
def test_turns_over_the_examples_change_nothing(network, heads, train, removed, selection, monkeypatch):
    fits = heads if selection == "last-layer" else network
    whole = newton_refits(fits, train, removed)
    features = stacked_features(fits.objective, fits.params, train.inputs)
    monkeypatch.setattr(problems, "ENTRIES", 100)
    monkeypatch.setattr(problems, "TANGENT_ENTRIES", 100)
    parts = newton_refits(fits, train, removed)
    assert parts.converged.all()
    for name, value in whole.params.items():
        torch.testing.assert_close(parts.params[name], value, rtol=0, atol=1e-9)
    torch.testing.assert_close(losses_after(fits, parts, train), losses_after(fits, whole, train))
    torch.testing.assert_close(stacked_features(fits.objective, fits.params, train.inputs), features)


def test_convex_refits_do_not_depend_on_where_they_start(heads, train, removed):
    polished = polished_fits(heads, train)
    assert polished.polished.all()
    assert float(polished.gradient_norms.max()) <= 1e-10
    for damping in (None, 0.1):
        if damping is None:
            near, far = (newton_refits(fits, train, removed) for fits in (polished, heads))
        else:
            near = proximal_refits(polished, train, removed, damping, bregman=True, tolerance=1e-11)
            far = proximal_refits(polished, train, removed, damping, bregman=True, tolerance=1e-11)
        assert near.converged.all()
        assert far.converged.all()
        for name, value in near.params.items():
            torch.testing.assert_close(far.params[name], value, rtol=0, atol=1e-8)


def test_a_network_that_goes_on_behind_its_last_layer_is_refitted_whole(train):
    network = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Tanh()).double()
    objective = Deterministic("l2", weight_decay=DECAY).objective(network, len(train), "last-layer")
    assert not has_head(objective, train.batch())
    params = {name: value.unsqueeze(0) for name, value in objective.params.items()}
    refitted, problem = refit_problem(objective, params, train)
    assert not isinstance(refitted.network, Head)
    assert problem.linear is None
