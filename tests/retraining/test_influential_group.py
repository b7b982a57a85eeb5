"""`influential_group`: a refit agrees in sign and size, and what it refuses."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import bayes_influence as bi
from bayes_influence.influence.selection import GroupSelection
from bayes_influence.retraining.influential_group import influential_group
from bayes_influence.training.minimum import minimum_of


@pytest.fixture(scope="module")
def fit(regression):
    return regression.at(0)


def refitted_change(objective, train, test, ids):
    """By training anew on the rest, 1/n kept: the regulariser weighs n / (n - m) times as much."""
    rest = train.without(ids)
    again = minimum_of(replace(objective, regulariser_weight=len(train) / len(rest)), rest)
    batch = test.to(dtype=torch.float64).batch()
    return float((again.losses(again.params, batch) - objective.losses(objective.params, batch)).mean())


@pytest.mark.parametrize(("direction", "sign"), [("increase", 1), ("decrease", -1)])
def test_the_group_moves_the_loss_as_predicted_and_that_way(fit, train, test, direction, sign):
    found = influential_group(fit, train, test, 4, direction=direction, damping=0.0, refit=bi.Minimum())
    assert len(set(found.ids.tolist())) == 4
    assert found.true == pytest.approx(refitted_change(fit, train, test, found.ids), abs=1e-8)
    assert sign * found.true > 0
    assert found.predicted == pytest.approx(found.true, rel=0.1)
    assert found.method in ("first-order", "monotone-top-k", "greedy", "projected-gradient", "adaptive-greedy")
    assert found.bend == bi.Influence(fit, train, damping=0.0).of_group(found.ids).bend
    assert f"{found.predicted:+.3g}, bend {found.bend:.2g}, true {found.true:+.3g}; ids" in repr(found)


@pytest.mark.parametrize("method", ["first-order", "greedy"])
def test_the_group_is_that_of_select_group_and_nothing_is_refitted_unasked(fit, train, test, method):
    found = influential_group(fit, train, test, 3, method=method, damping=0.0)
    same = bi.Influence(fit, train, damping=0.0).select_group(test, 3, method=method)
    assert (found.ids.tolist(), found.predicted, found.method) == (same.ids.tolist(), same.change, method)
    assert found.true is None


def test_another_curvature_is_taken_where_it_is_said_and_what_was_not_tried_is_shown(fit, train, test):
    options = {"curvature": "empirical-fisher", "damping": 0.1}
    found = influential_group(fit, train, test, 3, method="first-order", **options)
    same = bi.Influence(fit, train, **options).select_group(test, 3, method="first-order")
    assert (found.ids.tolist(), found.predicted) == (same.ids.tolist(), same.change)
    assert found.predicted != influential_group(fit, train, test, 3, method="first-order", damping=0.1).predicted
    assert found.untried == same.untried == ""
    listed = ", ".join(map(str, found.ids.tolist()))
    assert repr(found).endswith(f"ids {listed})")
    untried = replace(found, untried="adaptive greedy was not tried: because")
    assert repr(untried).endswith(f"ids {listed}; adaptive greedy was not tried: because)")


def test_the_mean_over_those_that_remain_is_another_truth(fit, train, test):
    options = {"method": "first-order", "damping": 0.0, "refit": bi.Minimum()}
    fixed, renormalised = (
        influential_group(fit, train, test, 8, convention=convention, **options)
        for convention in ("fixed", "renormalised")
    )
    rest = minimum_of(fit, train.without(renormalised.ids))
    batch = test.batch()
    true = (rest.losses(rest.params, batch) - fit.losses(fit.params, batch)).mean()
    assert renormalised.true == pytest.approx(float(true), abs=1e-8)
    assert renormalised.predicted == pytest.approx(renormalised.true, rel=0.15)
    assert fixed.true != pytest.approx(renormalised.true, rel=0.01)


def test_groups_of_a_regression_have_no_classes_to_lose(train, test):
    real = [replace(data, targets=data.inputs[:, :1].double(), class_names=()) for data in (train, test)]
    network = nn.Linear(train.inputs.shape[1], 1).double()
    objective = minimum_of(bi.Objective(network, bi.GaussianNoise(1.0), bi.WeightDecay(0.1)), real[0])
    found = influential_group(objective, *real, len(train) - 5, method="first-order", damping=0.0, refit=bi.Minimum())
    assert found.predicted == pytest.approx(found.true, rel=1e-6)  # quadratic: one Newton step is the refit


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"size": 0}, ValueError, "between 1 and 39 of the 40 training examples, got 0"),
        ({"size": 40}, ValueError, "between 1 and 39 of the 40 training examples, got 40"),
        ({"size": 1000}, ValueError, "between 1 and 39 of the 40 training examples, got 1000"),
        ({"size": 2.0}, TypeError, "size must be a whole number, got float 2.0"),
        ({"method": "luck"}, ValueError, "method must be one of first-order, .*got 'luck'"),
        ({"direction": "up"}, ValueError, "direction must be one of increase, decrease, got 'up'"),
        ({"convention": "free"}, ValueError, "convention must be one of fixed, renormalised, got 'free'"),
        ({"train": None}, TypeError, "the training examples must be a Dataset of this library, got None"),
        ({"test": [1]}, TypeError, "the test examples must be a Dataset of this library, got list"),
        ({"objective": nn.Linear(3, 3)}, TypeError, "what a group influences must be one Objective"),
    ],
)
def test_what_cannot_be_is_refused(fit, train, test, wrong, error, message):
    with pytest.raises(error, match=message):
        influential_group(**{"objective": fit, "train": train, "test": test, "size": 3, **wrong})


@pytest.mark.parametrize(("names", "said"), [((), "2"), (("a", "b", "rare"), "rare")])
def test_a_group_that_is_all_of_a_class_is_refused(fit, train, names, said):
    """Two examples of a class, and a test example of it: no others matter as much."""
    rare = (train.targets == 2).nonzero()[:, 0]
    few = replace(train.without(train.ids[rare[2:]]), class_names=names)
    objective, own = minimum_of(fit, few), few.at(train.ids[rare[:1]])
    with pytest.raises(
        ValueError, match=f"the group of 2 examples has all 2 of class {said}, which nothing is learned"
    ):
        influential_group(objective, few, own, 2, method="first-order", damping=0.0)


def test_where_an_objective_is_at_no_minimum_it_is_said_by_what_a_step_to_it_would_change(train, test, caplog):
    """Of a quadratic objective the step leads to the minimum: the test gradient along the way there is the change."""
    real = [replace(data, targets=data.inputs[:, :1].double(), class_names=()) for data in (train, test)]
    network = nn.Linear(train.inputs.shape[1], 1).double()
    lowest = minimum_of(bi.Objective(network, bi.GaussianNoise(1.0), bi.WeightDecay(0.1)), real[0])
    influential_group(lowest, *real, 2, damping=0.0)
    assert "at no minimum" not in caplog.text
    away = lowest.at({name: value + 1.0 for name, value in lowest.params.items()})
    found = influential_group(away, *real, 2, damping=0.0)
    flat = [torch.cat([value.flatten() for value in one.params.values()]) for one in (away, lowest)]
    names = away.params
    slopes = torch.autograd.functional.jacobian(
        lambda *values: away.losses(dict(zip(names, values, strict=True)), real[1].batch()).mean(),
        tuple(names.values()),
    )
    expected = float(torch.cat([slope.flatten() for slope in slopes]) @ (flat[1] - flat[0]))
    assert (
        f"at no minimum: a step to it would change the mean test loss by {expected:.2g}, removing the group by "
        f"{found.predicted:.2g}. Train longer"
    ) in caplog.text


def test_a_single_gradient_tells_it_and_no_example_is_scored(fit, train, test, monkeypatch):
    monkeypatch.setattr(bi.Influence, "on_loss", None)
    assert len(influential_group(fit, train, test, 2, damping=0.0).ids) == 2


def test_a_prediction_against_the_direction_is_said(fit, train, test, caplog, monkeypatch):
    influential_group(fit, train, test, 2, damping=0.0, direction="decrease")
    assert "though what was looked for" not in caplog.text
    found = GroupSelection(train.ids[:2], "greedy", 0.5, {"greedy": 0.5})
    monkeypatch.setattr(bi.Influence, "select_group", lambda *given, **said: found)
    influential_group(fit, train, test, 2, damping=0.0, direction="decrease")
    assert "predicted to change the loss by 0.5, though what was looked for is to decrease it" in caplog.text
    assert "take method='adaptive-greedy'" in caplog.text


@pytest.mark.parametrize("refit", [3, "newton", bi.Minimum])
def test_what_is_no_protocol_is_refused(fit, train, test, refit, as_installed):
    with pytest.raises(TypeError, match=r"refit must be a protocol such as Minimum\(\), got"):
        influential_group(fit, train, test, 2, refit=refit)


def test_a_refit_that_is_none_is_refused(fit, train, test):
    with pytest.raises(
        bi.NotConvergedError, match=r"the refit without 3 examples .* above its tolerance of 1e-30; rai"
    ):
        influential_group(fit, train, test, 3, method="first-order", damping=0.0, refit=bi.Minimum(tolerance=1e-30))
