import numpy as np
import pytest
import torch

from bayes_influence.curvature import cost
from bayes_influence.curvature.cost import TooLargeError
from bayes_influence.objectives.reduction import reduce
from bayes_influence.objectives.reweighting import Removals, as_removals
from bayes_influence.retraining import turns
from bayes_influence.retraining.minimum import Minimum
from bayes_influence.retraining.proximal import Proximal
from bayes_influence.retraining.turns import from_controls, refits_in_turns, repeated_problem
from bayes_influence.training import minimum
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.minimum import minimise
from bayes_influence.training.newton import minimise_newton
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.schemes import SCHEMES
from bayes_influence.training.stacked import StackedProblem
from tests.fitted import DECAY, tanh_network
from tests.references import softmax_regression_minimum


def _turns_of(fits, train, removed):
    """How many networks were refitted at a time."""
    taken = []

    def solve(problem, rows, positions):
        taken.append(len(rows))
        return from_controls(problem, len(rows), positions, 1e-6)

    refits_in_turns(reduce(fits, train), as_removals(removed, len(fits)), solve)
    return taken


@pytest.fixture(scope="module")
def three(train):
    """Last layers of three tanh networks, each on features of its own: P = 15, D = 4."""
    schedule = Schedule(20)
    (fits,) = fit_schemes([SCHEMES["weight-decay"]], tanh_network, train, [0, 1, 2], schedule, tolerance=None)
    return fits


@pytest.mark.parametrize(("room", "taken"), [(3.0, [3]), (2.9, [2, 1]), (2.0, [2, 1]), (1.9, [1] * 3), (0.1, [1] * 3)])
def test_no_more_hessians_are_held_than_there_is_room_for(three, train, monkeypatch, room, taken):
    """A control and two refits, of 15 parameters each, are 3 * 15^2 entries."""
    monkeypatch.setattr(turns, "HESSIANS_AT_ONCE", int(room * 3 * 15 * 15))
    assert _turns_of(three, train, torch.tensor([[0, 1]] * 3)) == taken


@pytest.mark.parametrize(("room", "taken"), [(3.0, [3]), (2.9, [2, 1]), (2.0, [2, 1]), (1.9, [1] * 3), (0.1, [1] * 3)])
def test_no_more_features_are_held_than_there_is_room_for(three, train, monkeypatch, room, taken):
    """Every one of three refits of a network has its features beside it: 40 examples of 4 numbers."""
    monkeypatch.setattr(turns, "ENTRIES", int(room * 3 * 40 * 4))
    assert _turns_of(three, train, torch.tensor([[0, 1]] * 3)) == taken


@pytest.mark.parametrize("entries", [1, turns.HESSIANS_AT_ONCE])
def test_refits_do_not_depend_on_which_networks_share_a_turn(regression, train, removed, monkeypatch, entries):
    monkeypatch.setattr(turns, "HESSIANS_AT_ONCE", entries)
    refits = Minimum().refit(regression, train, removed)
    assert refits.converged.shape == (2, 4)
    assert refits.converged.all()
    assert float(refits.gradient_norms.max()) <= 1e-10
    for seed in range(2):
        for index in range(4):
            weights = np.ones(40)
            weights[removed[seed, :index][-1:]] = 0
            weight, bias = softmax_regression_minimum(train.inputs, train.targets, weights, DECAY, 3)
            np.testing.assert_allclose(refits.params["0.weight"][seed, index], weight, atol=1e-8)
            np.testing.assert_allclose(refits.params["0.bias"][seed, index], bias, atol=1e-8)


@pytest.mark.parametrize(("room", "taken"), [(4.0, [4]), (3.0, [3, 1]), (0.9, [1] * 4)])
def test_refits_of_one_last_layer_that_do_not_fit_together_are_made_in_turns(three, train, monkeypatch, room, taken):
    """A control and three groups, of 15 parameters each."""
    monkeypatch.setattr(turns, "HESSIANS_AT_ONCE", int(room * 15 * 15))
    made = []

    def counted(problem, **rest):
        made.append(len(problem.start))
        return minimise(problem, **rest)

    monkeypatch.setattr(turns, "minimise", counted)
    groups = Removals.of_groups([torch.arange(3), torch.arange(5, 9), torch.tensor([20])], seeds=1)
    refits = Minimum().refit(three.at(0), train, groups)
    controls, *others = made
    assert (controls, others) == (1, taken)
    assert refits.converged.all()


def test_refits_start_from_the_hessian_without_their_example(regression, train, removed, monkeypatch):
    """Which for the control's parameters is that of J without it, by finite differences of its gradients."""
    reduction, given = reduce(regression, train), []
    weights = as_removals(removed, 2).data_weights(train)
    problem = repeated_problem(reduction, StackedProblem.of(reduction), torch.arange(2), weights)

    def minimise(problem, *, tolerance, hessians=None, metric=None):
        assert metric is None
        given.append(hessians)
        return minimise_newton(problem, tolerance=tolerance, hessians=hessians)

    monkeypatch.setattr(turns, "minimise", minimise)
    from_controls(problem, 2, removed, 1e-10)
    controls, found = given
    assert controls is None
    steps = 1e-5 * torch.eye(problem.start.shape[1], dtype=torch.float64)
    for member in range(8):
        which = torch.full((len(steps),), member)
        ahead, behind = (problem.gradients(problem.start[member] + sign * steps, which)[0] for sign in (1, -1))
        torch.testing.assert_close(found[member], (ahead - behind) / 2e-5, rtol=1e-5, atol=1e-8)


def test_refits_by_lbfgs_share_the_hessian_of_their_control_where_there_are_many(network, train, monkeypatch):
    there = network.at(0)
    removed = torch.tensor([0, 5, 17])
    exact = Minimum(tolerance=1e-9).refit(there, train, removed)
    assert exact.converged.all()
    monkeypatch.setattr(minimum, "RENEWED_ENTRIES", 0)
    given, iterations = [], []

    def minimise(problem, *, tolerance, hessians=None, metric=None):
        result = minimum.minimise(problem, tolerance=tolerance, hessians=hessians, metric=metric)
        given.append(hessians is not None)
        iterations.append(result.iterations)
        return result

    monkeypatch.setattr(turns, "minimise", minimise)
    for saved, shared in ((3 * 31 // 4 + 1, True), (3 * 31 // 4, False)):
        monkeypatch.setattr(turns, "GRADIENTS_SAVED", saved)
        refits = Minimum(tolerance=1e-8).refit(there, train, removed)
        assert refits.converged.all()
        assert given[-4:] == [shared] * 4
        for name, value in exact.params.items():
            torch.testing.assert_close(refits.params[name], value, rtol=0, atol=1e-5)
    assert max(iterations[:4]) < max(iterations[4:]) / 2


def test_refits_of_whole_networks_do_not_depend_on_how_many_are_held(train, monkeypatch):
    (fits,) = fit_schemes(
        [SCHEMES["weight-decay"]], tanh_network, train, [0, 1], Schedule(20), parameters="all", tolerance=None
    )
    removed = torch.tensor([[0, 5], [3, 1]])
    together = Proximal(0.5).refit(fits, train, removed)
    monkeypatch.setattr(turns, "WHOLE_HESSIANS_AT_ONCE", 1)
    taken = []
    monkeypatch.setattr(turns, "minimise", lambda problem, **rest: taken.append(1) or minimise(problem, **rest))
    singly = Proximal(0.5).refit(fits, train, removed)
    assert len(taken) == 2 * 3
    assert singly.converged.all()
    for name, value in together.params.items():
        torch.testing.assert_close(singly.params[name], value, rtol=1e-6, atol=1e-7)


def test_a_plan_counts_the_hessians_that_are_held_together_or_the_steps_of_one_descent(network, train, monkeypatch):
    one = StackedProblem.of(reduce(network, train))
    size, copies = one.start.shape[1], turns.HESSIAN_COPIES
    monkeypatch.setattr(turns, "WHOLE_HESSIANS_AT_ONCE", 3 * size**2)
    for refits, together in ((2, 2), (5, 3)):
        problem = one.only(torch.zeros(refits, dtype=torch.int64))
        plan = turns.refits_plan(problem, 1)
        assert plan.held_bytes == 8 * (together * copies * size**2 + problem.hessian_numbers(together))
        assert plan.what == f"{refits} refits in {size} parameters by Newton"
    monkeypatch.setattr(minimum, "DENSE_SIZE", size - 1)
    assert turns.refits_at_once(problem, 5) == 1
    plan = turns.refits_plan(problem, 1)
    assert plan.held_bytes == 8 * turns.LBFGS_COPIES * size
    assert plan.what == f"5 refits in {size} parameters by L-BFGS"


def test_a_plan_counts_the_one_hessian_of_each_network_that_its_descents_share(network, train, monkeypatch):
    one = StackedProblem.of(reduce(network, train))
    size, copies = one.start.shape[1], turns.HESSIAN_COPIES
    problem = one.only(torch.zeros(6, dtype=torch.int64))
    monkeypatch.setattr(minimum, "RENEWED_ENTRIES", 0)
    monkeypatch.setattr(turns, "GRADIENTS_SAVED", turns.GRADIENTS_PER_COLUMN * size / 3)
    for networks, shared in ((1, True), (2, True), (3, False)):
        held = copies * size**2 + problem.hessian_numbers(networks) if shared else 0
        assert turns.refits_plan(problem, networks).held_bytes == 8 * (turns.LBFGS_COPIES * size + held)
    assert problem.hessian_numbers(2) == 2 * problem.hessian_numbers(1)


def test_refits_that_do_not_fit_are_refused_before_they_begin(three, train, monkeypatch):
    monkeypatch.setattr(cost, "SMALL_BYTES", 0)
    monkeypatch.setattr(cost, "available_bytes", lambda device: 1000)
    monkeypatch.setattr(turns, "minimise", None)
    with pytest.raises(TooLargeError, match=r"9 refits in 15 parameters by Newton holds .*; remove fewer examples"):
        Minimum().refit(three, train, torch.tensor([[0, 1]] * 3))
