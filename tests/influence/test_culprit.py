"""`culprit_feature`: the feature that a refit names too, its formula by dense derivatives, and what it refuses."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import bayes_influence as bi
from bayes_influence.data.synthetic import logistic_classes
from bayes_influence.influence.culprit import culprit_feature
from bayes_influence.training.minimum import minimum_of

PLANTED = 3
"""Column of the indicator."""


def mean_loss(objective, test):
    return float(objective.losses(objective.params, test.batch()).mean())


@pytest.fixture(scope="module")
def mismatch():
    """80 rows of two classes by a rule; two more have an indicator, and labels against that rule, as a further one."""
    whole = logistic_classes(83, n_features=3, n_classes=2, seed=1).dataset
    planted = torch.zeros(83, 1, dtype=torch.float64)
    planted[80:] = 1.0
    targets = whole.targets.clone()
    inputs = torch.cat([whole.inputs, planted], dim=1)
    inputs[81:] = inputs[80]
    own = int(targets[80])
    targets[80:82], targets[82] = 1 - own, own
    data = bi.Dataset(inputs, targets, torch.arange(83) + 200, feature_names=("a", "b", "c", "planted"))
    order = torch.randperm(82, generator=torch.Generator().manual_seed(0))
    train, test = data.select(order), data.select([82])
    torch.manual_seed(0)
    objective = minimum_of(bi.Objective(nn.Linear(4, 2).double(), bi.CrossEntropy(), bi.WeightDecay(1e-3)), train)
    return objective, train, test


def test_the_planted_rows_and_their_feature_are_found(mismatch):
    found = culprit_feature(*mismatch, 2, damping=0.0)
    assert sorted(found.ids.tolist()) == [280, 281]
    assert (found.removal < 0).all()  # without them the loss falls
    assert (found.feature, found.name) == (PLANTED, "planted")
    assert found.effects.sum(dim=0)[PLANTED] < 0  # and so it does where they have no indicator
    assert found.order.tolist() == found.strengths.argsort(descending=True).tolist()


def test_a_refit_with_the_median_in_their_places_agrees_in_sign_and_in_which_feature(mismatch):
    objective, train, test = mismatch
    found = culprit_feature(objective, train, test, 2, damping=0.0)
    true = torch.zeros(4, dtype=torch.float64)
    for column in range(4):
        inputs = train.inputs.clone()
        inputs[train.positions(found.ids), column] = train.inputs[:, column].median()
        true[column] = mean_loss(minimum_of(objective, train.with_inputs(inputs)), test) - mean_loss(objective, test)
    large = true.abs() > 0.05 * true.abs().max()
    assert torch.equal(found.effects.sum(dim=0).sign()[large], true.sign()[large])
    assert int(true.abs().argmax()) == PLANTED
    # The derivative in the indicator has the other sign: a smaller one is first given a larger weight.
    slopes = bi.Influence(objective, train, damping=0.0).of_perturbation(found.ids, test)[0]
    assert (slopes[:, PLANTED] * (0 - 1) > 0).all()


@pytest.mark.parametrize("row", [5, 11])
def test_an_entry_near_the_median_changes_the_loss_as_eq_5_and_a_refit_say(linear, train, test, row):
    """A row whose entries lie a thousandth from the medians."""
    medians = train.inputs.median(dim=0).values
    generator = torch.Generator().manual_seed(row)
    inputs = train.inputs.clone()
    inputs[row] = medians + 1e-3 * torch.randn(3, generator=generator, dtype=torch.float64)
    near = train.with_inputs(inputs)
    medians = near.inputs.median(dim=0).values
    objective = minimum_of(linear, near)
    found = culprit_feature(objective, near, test, ids=near.ids[[row]], damping=0.0)
    slopes = bi.Influence(objective, near, damping=0.0).of_perturbation(found.ids, test).mean(dim=0)
    torch.testing.assert_close(found.effects, slopes * (medians - inputs[row]) / len(train), rtol=1e-2, atol=0)
    for column in range(3):
        moved = inputs.clone()
        moved[row, column] = medians[column]
        true = mean_loss(minimum_of(objective, near.with_inputs(moved)), test) - mean_loss(objective, test)
        assert true == pytest.approx(float(found.effects[0, column]), rel=0.02)


def test_effects_are_those_of_dense_derivatives_with_the_weights_of_the_rows(linear, train, test):
    weighted = replace(train, weights=torch.linspace(0.5, 1.5, 40, dtype=torch.float64))
    objective = minimum_of(linear, weighted)
    found = culprit_feature(objective, weighted, test, 3, damping=0.0)
    flat = objective.flat

    def gradient(inputs, targets):
        return torch.func.grad(lambda at: flat.losses(at, bi.Batch(inputs, targets)).mean())(flat.theta)

    def whole(theta):
        return flat.losses(theta, weighted.batch()).mean() + flat.regulariser(theta)

    solved = torch.linalg.solve(torch.func.hessian(whole)(flat.theta), gradient(test.inputs, test.targets))
    medians, effects = train.inputs.median(dim=0).values, torch.zeros(3, 3, dtype=torch.float64)
    for row, example in enumerate(found.ids.tolist()):
        one = weighted.at(example)
        for column in range(3):
            moved = one.inputs.clone()
            moved[0, column] = medians[column]
            difference = gradient(moved, one.targets) - gradient(one.inputs, one.targets)
            effects[row, column] = -one.weights[0] * (solved @ difference) / len(train)
    torch.testing.assert_close(found.effects, effects)
    torch.testing.assert_close(found.strengths, effects.abs().mean(dim=0))
    removal = bi.Influence(objective, weighted, damping=0.0).on_loss(test).removal.mean(dim=0)
    assert found.ids.tolist() == train.ids[removal.abs().argsort(descending=True)[:3]].tolist()
    torch.testing.assert_close(found.removal, removal[train.positions(found.ids)])


def test_another_curvature_is_taken_where_it_is_said(linear, train, test):
    found = culprit_feature(linear, train, test, 5, curvature="empirical-fisher", damping=0.1)
    influence = bi.Influence(linear, train, curvature="empirical-fisher", damping=0.1)
    removal = influence.on_loss(test).removal.mean(dim=0)
    torch.testing.assert_close(found.removal, removal[train.positions(found.ids)])
    assert not torch.allclose(found.removal, culprit_feature(linear, train, test, ids=found.ids, damping=0.1).removal)


def test_features_go_by_their_names_or_by_their_numbers(linear, train, test):
    assert culprit_feature(linear, train, test).names == ("x0", "x1", "x2")
    unnamed = culprit_feature(linear, replace(train, feature_names=()), test)
    assert unnamed.name == f"feature {unnamed.feature}"


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"count": 0}, ValueError, "count must be at least 1, got 0"),
        ({"count": 1.5}, TypeError, "count must be a whole number, got float 1.5"),
        ({"count": 41}, ValueError, "at most all 40 training rows can be asked, got count=41"),
        ({"ids": [-7]}, ValueError, r"no example has id \[-7\]"),
        ({"test": None}, TypeError, "the test examples must be a Dataset of this library, got None"),
        ({"objective": nn.Linear(3, 3)}, TypeError, "what is explained must be one Objective"),
    ],
)
def test_what_cannot_be_is_refused(linear, train, test, wrong, error, message):
    with pytest.raises(error, match=message):
        culprit_feature(**{"objective": linear, "train": train, "test": test, **wrong})


def test_images_have_no_columns(linear, train, test):
    images = train.with_inputs(train.inputs[:, None])
    with pytest.raises(ValueError, match=r"a column of a table, real inputs of shape \(n, d\), got \(40, 1, 3\)"):
        culprit_feature(linear, images, test)
    whole = train.with_inputs(train.inputs.round().long())
    with pytest.raises(ValueError, match=r"real inputs of shape \(n, d\), got \(40, 3\), torch.int64"):
        culprit_feature(linear, whole, test)
    pairs = train.with_inputs((train.inputs, train.inputs))
    with pytest.raises(ValueError, match=r"real inputs of shape \(n, d\), got several"):
        culprit_feature(linear, pairs, test)
