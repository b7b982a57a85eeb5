"""Perturbing training inputs: against refits with a moved input, and the attack that follows from it."""

from dataclasses import replace
from inspect import signature

import pytest
import torch
from torch import nn

from bayes_influence.data.dataset import Dataset
from bayes_influence.influence.attack import attack
from bayes_influence.influence.culprit import culprit_feature
from bayes_influence.influence.influence import Influence
from bayes_influence.influence.perturbation import _mixed, perturbation_influence, training_set_attack
from bayes_influence.influence.problem import FittedProblem
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay
from bayes_influence.retraining.influential_group import influential_group

STEP = 1e-4


def moved(train, position, offset):
    inputs = train.inputs.clone()
    inputs[position] += offset
    return replace(train, inputs=inputs)


@pytest.mark.parametrize("name", ["linear", "deep"])
def test_influence_of_a_perturbation_is_the_derivative_of_the_refit(request, train, test, reweighted, name):
    objective = request.getfixturevalue(name)
    influence = Influence(objective, train, damping=0.0).of_perturbation(train.ids[[4, 9]], test)
    assert influence.shape == (5, 2, 3)
    everyone = torch.ones(40, dtype=torch.float64)
    for feature in range(3):
        offset = STEP * torch.eye(3, dtype=torch.float64)[feature]
        losses = []
        for sign in (1, -1):
            refit = reweighted(objective, moved(train, 9, sign * offset), everyone)
            losses.append(refit.losses(refit.params, test.batch()))
        slope = 40 * (losses[0] - losses[1]) / (2 * STEP)
        torch.testing.assert_close(influence[:, 1, feature], slope, rtol=1e-3, atol=1e-5)


def test_a_last_layer_is_perturbed_through_its_features(deep, train, test):
    """With features a(x) and a last layer W, the influence is a'(x) times that of moving the features."""
    objective = replace(deep, parameters="last-layer")
    influence = Influence(objective, train, damping=0.1)
    got = influence.of_perturbation(int(train.ids[2]), test)
    problem = influence.problem
    solved = influence.response.solve(problem.gradients(*problem.taken(test)).T).value

    def score(inputs):
        one = replace(train, inputs=torch.cat([train.inputs[:2], inputs.unsqueeze(0), train.inputs[3:]]))
        return -problem.gradients(problem.taken(one)[0].select([2]))[0] @ solved

    for feature in range(3):
        offset = STEP * torch.eye(3, dtype=torch.float64)[feature]
        slope = (score(train.inputs[2] + offset) - score(train.inputs[2] - offset)) / (2 * STEP)
        torch.testing.assert_close(got[:, 0, feature], slope, rtol=1e-6, atol=1e-8)


def test_reverse_mode_over_reverse_mode_is_the_same_for_every_test_example(deep, train, test):
    """What is taken for networks that torch cannot batch."""
    problem = FittedProblem(deep, train)
    solved = torch.randn(problem.size, 3, dtype=torch.float64)
    expected = perturbation_influence(problem, solved, train.ids[[6]])[:, 0]
    example = train.select([6]).batch()
    found = _mixed(lambda theta, one: deep.flat.value(theta, one), deep.flat.theta, example, solved)
    torch.testing.assert_close(found.squeeze(1), expected)


def test_inputs_that_are_not_real_are_refused(linear, train, test):
    from bayes_influence.influence.perturbation import perturbation_influence
    from bayes_influence.influence.problem import FittedProblem

    problem = FittedProblem(linear, train)
    problem.train = Dataset(train.inputs.long(), train.targets, train.ids)
    with pytest.raises(TypeError, match=r"needs real inputs, got torch\.int64"):
        perturbation_influence(problem, torch.zeros(problem.size, 1, dtype=torch.float64), train.ids[:1])


def test_an_attack_raises_the_test_loss_within_the_valid_range(linear, train, test):
    lower, upper = float(train.inputs.min()), float(train.inputs.max())
    target = test.select([0])
    ids = train.ids[:4]
    attack = training_set_attack(linear, train, target, ids, step=0.1, steps=8, lower=lower, upper=upper)
    assert attack.losses.shape == (9,)
    assert attack.losses[-1] > 1.2 * attack.losses[0]
    assert attack.losses[0] == pytest.approx(float(linear.losses(linear.params, target.batch())[0]))
    assert attack.train.inputs.min() >= lower
    assert attack.train.inputs.max() <= upper
    changed = (attack.train.inputs != train.inputs).any(dim=1)
    assert set(train.ids[changed].tolist()) <= set(ids.tolist())
    final = attack.objective
    assert float(final.losses(final.params, target.batch())[0]) == pytest.approx(float(attack.losses[-1]))


def test_an_attack_uses_the_refit_it_is_given(linear, train, test):
    seen = []

    def refit(objective, perturbed):
        seen.append(len(perturbed))
        return objective

    attack = training_set_attack(linear, train, test, train.ids[:2], step=0.1, steps=3, lower=-9, upper=9, refit=refit)
    assert seen == [40, 40, 40]
    assert attack.losses.unique().numel() == 1
    assert attack.losses[0] == pytest.approx(float(linear.losses(linear.params, test.batch()).mean()))


def test_a_refit_that_is_no_function_is_refused(linear, train, test, as_installed):
    with pytest.raises(
        TypeError, match="refit must be a function of an objective and its training examples, got int 5"
    ):
        training_set_attack(linear, train, test, train.ids[:2], step=0.1, lower=-9, upper=9, refit=5)


def test_one_step_goes_up_the_slope_of_the_loss_as_far_as_it_may(linear, train, test):
    ids, target = train.ids[:2], test.select([0])
    attack = training_set_attack(linear, train, target, ids, step=0.1, steps=1, lower=-9, upper=9)
    moved = attack.train.inputs - train.inputs
    assert moved[2:].abs().max() == 0
    torch.testing.assert_close(moved[:2].abs(), torch.full((2, 3), 0.1, dtype=torch.float64))
    assert attack.losses[1] > attack.losses[0]


@pytest.mark.parametrize(
    "wrong", [{"step": 0.0}, {"steps": 0}, {"lower": 1.0, "upper": 0.0}, {"lower": 1.0, "upper": 1.0}]
)
def test_attacks_that_cannot_move_are_refused(linear, train, test, wrong):
    with pytest.raises(ValueError, match="step > 0, steps >= 1 and lower < upper"):
        training_set_attack(linear, train, test, train.ids[:1], **{"step": 0.1, **wrong})


class Blind(nn.Module):
    """Does not look at the second feature."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3).double()

    def forward(self, inputs):
        return self.linear(inputs * torch.tensor([1.0, 0.0, 1.0]))


def test_inputs_without_a_slope_stay_and_the_valid_range_is_the_unit_interval(train, test):
    objective = Objective(Blind(), CrossEntropy(), WeightDecay(0.02))
    inside, ids = train.with_inputs(train.inputs.clamp(0.05, 0.95)), train.ids[:3]
    attack = training_set_attack(objective, inside, test, ids, step=9.0, steps=1, refit=lambda one, _: one)
    moved = attack.train.inputs[:3]
    assert torch.equal(moved[:, 1], inside.inputs[:3, 1])
    assert set(moved[:, [0, 2]].flatten().tolist()) <= {0.0, 1.0}


def test_a_step_down_the_slope_lowers_the_loss(linear, train, test):
    ids, target = train.ids[:2], test.select([0])
    both = {
        way: training_set_attack(linear, train, target, ids, step=0.1, steps=1, lower=-9, upper=9, direction=way)
        for way in ("increase", "decrease")
    }
    assert both["decrease"].losses[1] < both["decrease"].losses[0] < both["increase"].losses[1]
    up, down = (both[way].train.inputs - train.inputs for way in ("increase", "decrease"))
    torch.testing.assert_close(up, -down)


@pytest.mark.usefixtures("as_installed")
def test_an_unknown_direction_is_refused(linear, train, test):
    with pytest.raises(ValueError, match="direction must be one of increase, decrease, got 'sideways'"):
        training_set_attack(linear, train, test, train.ids[:1], step=0.1, direction="sideways")


def test_what_is_asked_of_a_minimum_takes_no_damping_unless_it_is_asked_for():
    for function in (training_set_attack, attack, culprit_feature, influential_group):
        assert signature(function).parameters["damping"].default == 0.0
