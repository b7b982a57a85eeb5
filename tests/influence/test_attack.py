"""`attack`: predictions turn by retraining on what it moved, within the range; and what it refuses."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import bayes_influence as bi
from bayes_influence.influence.attack import attack
from bayes_influence.training.minimum import minimum_of

RANGE = {"lower": -9.0, "upper": 9.0}


@pytest.fixture
def victim(linear, test):
    """The test example that is predicted rightly with the smallest margin."""
    margins = bi.Margin(linear.likelihood)(linear.outputs(linear.params, test.inputs), test.targets)
    margins = torch.where(margins > 0, margins, torch.inf)
    return test.select([int(margins.argmin())])


def predicted(objective, example):
    return int(objective.outputs(objective.params, example.inputs).argmax())


def test_a_prediction_turns_once_retrained_on_what_was_moved(linear, train, victim):
    done = attack(linear, train, victim, 3, step=0.03, steps=40, damping=0.0, **RANGE)
    assert done.flipped
    again = minimum_of(linear, done.train)
    assert predicted(linear, victim) == int(victim.targets[0]) != predicted(again, victim)
    changed = (done.train.inputs != train.inputs).any(dim=1)
    assert sorted(train.ids[changed].tolist()) == sorted(done.ids.tolist())
    assert len(done.ids) == 3
    assert 1 < done.steps <= 40
    largest = float((done.train.inputs - train.inputs).abs().max())
    assert done.largest_move == pytest.approx(largest) == pytest.approx(0.03 * done.steps)
    # It stops as soon as the prediction turns: one step less does not do.
    short = attack(linear, train, victim, 3, step=0.03, steps=done.steps - 1, damping=0.0, **RANGE)
    assert not short.flipped
    assert short.ids.tolist() == done.ids.tolist()


def test_those_moved_matter_most(linear, train, victim):
    slopes = bi.Influence(linear, train, damping=0.0).of_perturbation(train.ids, victim)[0]
    sizes = slopes.abs().mean(dim=1)
    done = attack(linear, train, victim, 2, step=0.01, steps=1, damping=0.0, **RANGE)
    assert done.ids.tolist() == train.ids[sizes.argsort(descending=True)[:2]].tolist()
    chosen = attack(linear, train, victim, ids=train.ids[[7]], step=0.01, steps=1, damping=0.0, **RANGE)
    assert chosen.ids.tolist() == train.ids[[7]].tolist()


def test_another_curvature_is_taken_where_it_is_said(linear, train, victim):
    """For choosing who is moved, and for the way that each goes."""
    options = {"curvature": "empirical-fisher", "damping": 0.1}
    slopes = bi.Influence(linear, train, **options).of_perturbation(train.ids, victim)[0]
    done = attack(linear, train, victim, 2, step=0.01, steps=1, **options, **RANGE)
    assert done.ids.tolist() == train.ids[slopes.abs().mean(dim=1).argsort(descending=True)[:2]].tolist()
    moved = (done.train.inputs - train.inputs)[train.positions(done.ids)]
    torch.testing.assert_close(moved, 0.01 * slopes[train.positions(done.ids)].sign().to(moved))


@pytest.mark.parametrize("target", [0, 1, 2])
def test_a_prediction_turns_to_the_class_that_is_asked_for(linear, train, victim, target):
    if target == int(victim.targets[0]):
        return
    done = attack(linear, train, victim, 20, target=target, step=0.1, steps=60, damping=0.0, **RANGE)
    assert done.flipped
    assert predicted(done.objective, victim) == target
    if done.steps > 1:  # and not earlier
        short = attack(linear, train, victim, 20, target=target, step=0.1, steps=done.steps - 1, damping=0.0, **RANGE)
        assert not short.flipped
        assert predicted(short.objective, victim) != target


def test_inputs_at_the_ends_of_the_range_and_all_examples_are_taken(linear, train, victim):
    ends = {"lower": float(train.inputs.min()), "upper": float(train.inputs.max())}
    done = attack(linear, train, victim, len(train), step=0.01, steps=1, damping=0.0, **ends)
    assert len(done.ids) == len(train)
    assert (done.train.inputs >= ends["lower"]).all()
    assert (done.train.inputs <= ends["upper"]).all()


@pytest.mark.parametrize(
    ("place", "message"),
    [(0, "what is attacked must be one Objective"), (1, "the training examples must be"), (2, "the victim must be")],
)
def test_what_is_no_objective_or_data_set_is_named(linear, train, victim, place, message, as_installed):
    given = [linear, train, victim]
    given[place] = "iris"
    with pytest.raises(TypeError, match=message):
        attack(*given, **RANGE)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"target": 3}, "the target must be one of the classes 0 to 2, and not the example's own"),
        ({"target": -1}, "the target must be one of the classes 0 to 2, and not the example's own"),
        ({"count": 0}, "count must be at least 1, got 0"),
        ({"count": 41}, "at most all 40 training examples can be moved, got count=41"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"lower": 0.0}, r"the training inputs lie in \[-.*\], outside the valid range \[0.0, 9.0\]"),
        ({"upper": 0.1}, r"the training inputs lie in \[-.*\], outside the valid range \[-9.0, 0.1\]"),
        ({"step": 0.0}, "an attack needs step > 0"),
        ({"lower": 9.0, "upper": -9.0}, r"the valid range must have lower < upper, got \[9.0, -9.0\]"),
        ({"upper": float("nan")}, r"the valid range must have lower < upper, got \[-9.0, nan\]"),
        ({"ids": []}, r"an attack moves at least one training example, got ids=\[\]; leave ids out"),
        ({"ids": [-7]}, r"no example has id \[-7\]"),
    ],
)
def test_what_cannot_be_is_refused(linear, train, victim, wrong, message):
    with pytest.raises(ValueError, match=message):
        attack(linear, train, victim, **{**RANGE, **wrong})


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"target": 1.5}, "target must be a whole number, got float 1.5"),
        ({"target": "a"}, "target must be a whole number, got str 'a'"),
        ({"target": True}, "target must be a whole number, got bool True"),
        ({"lower": "0"}, "lower must be a number, got str '0'"),
        ({"step": None}, "step must be a number, got None"),
    ],
)
def test_what_is_no_number_is_refused(linear, train, victim, wrong, message):
    with pytest.raises(TypeError, match=message):
        attack(linear, train, victim, **{**RANGE, **wrong})


def test_one_logit_has_two_classes_to_turn_to(train, test):
    binary = replace(train, targets=(train.targets > 0).long())
    torch.manual_seed(0)
    objective = minimum_of(bi.Objective(nn.Linear(3, 1).double(), bi.Bernoulli(), bi.WeightDecay(0.1)), binary)
    labels = (objective.outputs(objective.params, test.inputs)[:, 0] > 0).long()
    for own in (0, 1):
        victim = replace(test, targets=labels).select([labels.tolist().index(own)])
        attack(objective, binary, victim, target=1 - own, step=0.1, steps=1, damping=0.0, **RANGE)
        with pytest.raises(ValueError, match=f"one of the classes 0 to 1, and not the example's own, {own}, got {own}"):
            attack(objective, binary, victim, target=own, **RANGE)


def test_a_target_that_is_the_example_s_own_is_refused(linear, train, victim):
    own = int(victim.targets[0])
    with pytest.raises(ValueError, match=f"not the example's own, {own}, got {own}"):
        attack(linear, train, victim, target=own, **RANGE)


def test_an_example_that_is_misclassified_already_is_refused(linear, train, victim):
    wrong = replace(victim, targets=(victim.targets + 1) % 3)
    with pytest.raises(
        ValueError, match=f"the example {int(victim.ids[0])} is misclassified already: there is nothing"
    ):
        attack(linear, train, wrong, **RANGE)


def test_an_example_of_a_class_that_the_network_has_not_is_refused(linear, train, victim):
    wrong = replace(victim, targets=victim.targets + 7, class_names=())
    said = f"the example {int(victim.ids[0])} is of class {int(wrong.targets[0])}, but the network has 0 to 2"
    with pytest.raises(ValueError, match=said):
        attack(linear, train, wrong, **RANGE)


def test_several_examples_are_refused(linear, train, test):
    with pytest.raises(ValueError, match=r"the prediction of one example, got 5; take victim.select\(\[0\]\)"):
        attack(linear, train, test, **RANGE)
