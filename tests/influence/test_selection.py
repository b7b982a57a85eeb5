"""Selecting groups: the second-order effect and its gradient, the capped simplex, and who finds the worst group."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

import bayes_influence as bi
from bayes_influence.influence import refitting
from bayes_influence.influence.groups import reweighting_response
from bayes_influence.influence.influence import Influence
from bayes_influence.influence.selection import CHEAP_METHODS, METHODS, SecondOrderEffect, project_capped_simplex
from bayes_influence.objectives.reweighting import removal_weights
from bayes_influence.training.minimum import minimum_of


@pytest.fixture
def influence(linear, train):
    return Influence(linear, train, damping=0.0)


@pytest.fixture(params=["fixed", "renormalised"])
def effect(request, influence, test):
    slope = influence.problem.gradients(*influence.problem.taken(test)).mean(dim=0)
    return SecondOrderEffect(influence.response, influence.response.solve(slope).value, 1.0, request.param)


def indicator(positions):
    membership = torch.zeros(40, dtype=torch.float64)
    membership[torch.tensor(positions)] = 1.0
    return membership


def test_effect_of_a_group_is_its_second_order_influence_on_the_mean_loss(effect, influence, test):
    positions = torch.tensor([2, 5, 11])
    change = removal_weights(positions, effect.convention, torch.ones(40, dtype=torch.float64))
    torch.testing.assert_close(effect.weights(indicator([2, 5, 11]))[0], change)
    moved = reweighting_response(influence.response, change, 2)
    slope = influence.problem.gradients(*influence.problem.taken(test)).mean(dim=0)
    assert effect(indicator([2, 5, 11]))[0] == pytest.approx(float(slope @ moved), rel=1e-9)


def test_gradient_is_that_of_the_effect(effect):
    generator = torch.Generator().manual_seed(0)
    membership = torch.rand(40, generator=generator, dtype=torch.float64)
    direction = torch.randn(40, generator=generator, dtype=torch.float64)
    direction -= direction.mean()  # the size m = sum v is held
    _, slope = effect(membership)
    difference = (effect(membership + 1e-5 * direction)[0] - effect(membership - 1e-5 * direction)[0]) / 2e-5
    assert float(slope @ direction) == pytest.approx(difference, rel=1e-6)


def test_first_order_effect_is_the_removal_of_each_example(influence, effect, test):
    removal = influence.on_loss(test).removal.mean(dim=0)
    torch.testing.assert_close(effect.first_order(), removal)


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=12), st.integers(1, 11))
@settings(max_examples=50)
def test_projection_is_the_nearest_point_of_the_capped_simplex(values, size):
    u = torch.tensor(values, dtype=torch.float64)
    size = min(size, len(u) - 1)
    v = project_capped_simplex(u, size)
    assert float(v.sum()) == pytest.approx(size, abs=1e-9)
    assert v.min() >= 0
    assert v.max() <= 1
    for vertex in combinations(range(len(u)), size):  # (u - v)'(w - v) <= 0 for all w of the set, hence its vertices
        w = torch.zeros_like(u)
        w[list(vertex)] = 1.0
        assert float((u - v) @ (w - v)) <= 1e-8


@pytest.mark.parametrize(
    ("method", "direction"), [*((method, "increase") for method in METHODS[:-1]), ("projected-gradient", "decrease")]
)
def test_selected_groups_do_what_is_predicted(influence, linear, train, test, method, direction):
    selection = influence.select_group(test, 4, method=method, direction=direction)
    assert len(set(selection.ids.tolist())) == 4
    refit = minimum_of(replace(linear, regulariser_weight=40 / 36), train.without(selection.ids))
    truth = float((refit.losses(refit.params, test.batch()) - linear.losses(linear.params, test.batch())).mean())
    assert (truth > 0) == (direction == "increase")
    assert selection.change == pytest.approx(truth, rel=0.2)


def test_no_pair_is_much_worse_than_the_selected_one(linear, train, test):
    few = train.select(range(10))
    objective = minimum_of(linear, few)
    influence = Influence(objective, few, damping=0.0)
    best = max(
        float(influence.of_group(few.ids[list(pair)]).on_loss(test).mean()) for pair in combinations(range(10), 2)
    )
    assert influence.select_group(test, 2).change > 0.9 * best


@pytest.mark.parametrize("direction", ["increase", "decrease"])
def test_best_is_the_best_of_all_by_refits(influence, linear, train, test, direction):
    best = max if direction == "increase" else min
    found = influence.select_group(test, 15, direction=direction, at_once=5)
    assert set(found.candidates) == set(found.refitted) == set(METHODS[:-1])
    assert found.method == best(found.refitted, key=found.refitted.get)
    assert found.untried == ""
    for name in ("greedy", "adaptive-greedy"):
        alone = influence.select_group(test, 15, method=name, direction=direction, at_once=5)
        assert alone.change == found.candidates[name]
        assert (alone.refitted, alone.untried) == ({}, "")
        refit = minimum_of(replace(linear, regulariser_weight=40 / 25), train.without(alone.ids))
        truth = float((refit.losses(refit.params, test.batch()) - linear.losses(linear.params, test.batch())).mean())
        assert found.refitted[name] == pytest.approx(truth, abs=1e-8)


def test_best_is_the_best_of_the_cheap_ones_where_refits_cost_much(influence, test, monkeypatch):
    size = influence.problem.size
    operations = 2 * 5 * (40 * size**2 + size**3 / 3)  # two picks, five Hessians each, and their factors
    monkeypatch.setattr(refitting, "AFFORDABLE", operations + 1)
    assert influence.select_group(test, 2).untried == ""
    monkeypatch.setattr(refitting, "AFFORDABLE", operations - 1)
    found = influence.select_group(test, 2)
    assert set(found.candidates) == {"first-order", "monotone-top-k", "greedy", "projected-gradient"}
    assert (found.refitted, found.change) == ({}, max(found.candidates.values()))
    assert found.change >= influence.select_group(test, 2, method="monotone-top-k").change
    said = rf"adaptive greedy was not tried: its 2 refits take some {operations:.0e} operations, and no more than"
    assert said in found.untried
    assert found.untried in repr(found)
    assert influence.select_group(test, 2, at_once=2).untried == ""


def test_no_refit_is_tried_where_there_is_no_one_minimum(deep, train, test):
    found = Influence(deep, train, damping=0.1).select_group(test, 2)
    assert found.untried == (
        "adaptive greedy was not tried: only a regularised last layer has one minimum to refit to; "
        "method='adaptive-greedy' does it from where the network stands"
    )
    assert found.refitted == {}


def test_a_refit_that_fails_is_said_and_the_rest_is_kept(influence, test, monkeypatch):
    def fails(objective, data):
        raise ValueError("the minimisation stopped at gradient norm 1")

    monkeypatch.setattr(refitting, "minimum_of", fails)
    found = influence.select_group(test, 2)
    assert found.untried == "adaptive greedy was given up: the minimisation stopped at gradient norm 1"
    assert len(found.candidates) == 4
    with pytest.raises(ValueError, match="the minimisation stopped"):
        influence.select_group(test, 2, method="adaptive-greedy")


def test_what_is_printed_has_the_bend_the_refit_and_the_ids(influence, test):
    found = influence.select_group(test, 12, at_once=6)
    bend = influence.of_group(found.ids).bend
    assert found.bend == bend
    assert repr(found).startswith(f"GroupSelection(12 training examples by {found.method}, the best of 5: without them")
    assert f"changes by {found.change:+.3g}, bend {bend:.2g}" in repr(found)
    assert f"{found.refitted[found.method]:+.3g} by a refit" in repr(found)
    assert f"ids {', '.join(map(str, found.ids[:10].tolist()))}, and 2 more)" in repr(found)
    first = influence.select_group(test, 3, method="first-order")
    assert "the best of" not in repr(first)
    assert "refit" not in repr(first)


def test_a_last_layer_is_refitted_on_its_inputs(train, test):
    network = torch.nn.Sequential(torch.nn.Linear(train.inputs.shape[1], 4), torch.nn.Tanh(), torch.nn.Linear(4, 3))
    objective = bi.Objective(network.double(), bi.CrossEntropy(), bi.WeightDecay(0.1), parameters="last-layer")
    objective = minimum_of(objective, train)
    found = Influence(objective, train, damping=0.0).select_group(test, 6, method="adaptive-greedy", at_once=3)
    features = [data.with_inputs(torch.tanh(network[0](data.inputs.double())).detach()) for data in (train, test)]
    head = bi.Objective(network[2], bi.CrossEntropy(), bi.WeightDecay(0.1))
    head = minimum_of(head, features[0])
    same = Influence(head, features[0], damping=0.0).select_group(features[1], 6, method="adaptive-greedy", at_once=3)
    assert found.ids.tolist() == same.ids.tolist()
    assert found.change == pytest.approx(same.change, rel=1e-6)


def test_renormalised_groups_are_selected_too(influence, test):
    assert influence.select_group(test, 5, convention="renormalised", method="projected-gradient").change > 0


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "between 1 and 39 of the 40 training examples, got 0"),
        ({"size": 40}, "between 1 and 39 of the 40 training examples, got 40"),
        ({"size": 3, "method": "luck"}, "method must be one of first-order, .*got 'luck'"),
        ({"size": 3, "direction": "up"}, "direction must be one of increase, decrease, got 'up'"),
        ({"size": 3, "convention": "free"}, "convention must be one of fixed, renormalised, got 'free'"),
    ],
)
def test_impossible_selections_are_refused(influence, test, options, message):
    with pytest.raises(ValueError, match=message):
        influence.select_group(test, **options)


def test_second_derivatives_need_the_hessian(linear, train, test):
    influence = Influence(linear, train, curvature="ggn")
    with pytest.raises(ValueError, match="needs curvature='hessian', got 'ggn'"):
        influence.select_group(test, 3)
    assert influence.select_group(test, 3, method="first-order").change > 0


class Concave(SecondOrderEffect):
    """b'v - v'Q v / 2 in place of an effect; keeps what it is asked for."""

    def __init__(self, linear, quadratic):
        for name, value in {"linear": linear, "quadratic": quadratic, "asked": []}.items():
            object.__setattr__(self, name, value)

    def first_order(self):
        return self.linear

    def __call__(self, membership):
        self.asked.append(membership)
        turned = self.quadratic @ membership
        return float(self.linear @ membership - 0.5 * membership @ turned), self.linear - turned


@pytest.mark.parametrize("seed", range(10))
def test_projected_gradients_end_at_the_maximum_of_a_concave_effect(seed):
    """Against scipy's sequential quadratic programming; the k examples of the largest memberships there."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(8, 8, generator=generator, dtype=torch.float64)
    linear, quadratic = 3 * torch.rand(8, generator=generator, dtype=torch.float64), root @ root.T
    linear[1] = 0.0  # one that does nothing alone
    best = minimize(
        lambda v: 0.5 * v @ quadratic.numpy() @ v - linear.numpy() @ v,
        np.full(8, 3 / 8),
        bounds=[(0, 1)] * 8,
        constraints={"type": "eq", "fun": lambda v: v.sum() - 3},
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    effect = Concave(linear, quadratic)
    assert set(CHEAP_METHODS["projected-gradient"](effect, 3).tolist()) == set(np.argsort(-best.x)[:3].tolist())
    start, second = effect.asked[:2]
    assert start.tolist() == [float(value in linear.topk(3).values) for value in linear]
    slope = linear - quadratic @ start
    torch.testing.assert_close(second, project_capped_simplex(start + slope / slope.abs().max(), 3))


@pytest.mark.parametrize("method", ["greedy", "adaptive-greedy"])
def test_a_greedy_method_that_picks_all_at_once_never_looks_again(influence, test, method):
    """Picked at once it is the first order's choice; in twos it looks again after every two."""
    first = influence.select_group(test, 6, method="first-order").ids
    assert torch.equal(influence.select_group(test, 6, method=method, at_once=6).ids, first)
    assert torch.equal(influence.select_group(test, 6, method=method, at_once=99).ids, first)
    begun = set(influence.select_group(test, 2, method="first-order").ids.tolist())
    in_twos = influence.select_group(test, 6, method=method, at_once=2)
    assert begun <= set(in_twos.ids.tolist())
    assert len(in_twos.ids) == 6


def test_adaptive_greedy_in_turns_refits_between_them(influence, linear, train, test):
    """Five examples in turns of two: each turn takes the largest effects at the minimum of what is left."""
    rest, picked, left = train, [], 5
    while left:
        objective = minimum_of(replace(linear, regulariser_weight=linear.regulariser_weight * 40 / len(rest)), rest)
        effects = Influence(objective, rest, damping=0.0).on_loss(test).removal.mean(dim=0)
        taken = rest.ids[effects.argsort(descending=True)[: min(2, left)]]
        picked, rest, left = [*picked, *taken.tolist()], rest.without(taken), left - len(taken)
    found = influence.select_group(test, 5, method="adaptive-greedy", at_once=2)
    assert found.ids.tolist() == sorted(picked)


def test_picking_nothing_at_once_is_refused(influence, test):
    with pytest.raises(ValueError, match="at_once must be at least 1, got 0"):
        influence.select_group(test, 3, at_once=0)


@pytest.mark.parametrize("convention", ["fixed", "renormalised"])
def test_adaptive_greedy_picks_from_refits_with_the_regulariser_that_the_convention_leaves(
    influence, linear, train, test, convention, monkeypatch
):
    """1/n of n examples stays beside lambda, or becomes 1/(n - m)."""
    weights = []
    monkeypatch.setattr(
        refitting, "minimum_of", lambda objective, data: weights.append(objective.regulariser_weight) or objective
    )
    influence.select_group(test, 3, method="adaptive-greedy", convention=convention)
    shares = [39 / 40, 38 / 40] if convention == "fixed" else [1.0] * 2  # nothing is picked after the third
    assert weights == pytest.approx([1 / share for share in shares])
