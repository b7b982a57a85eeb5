import math

import pytest
import torch

from bayes_influence.data.dataset import Dataset
from bayes_influence.models.mlp import MLP
from bayes_influence.objectives.prediction import predict_classes
from bayes_influence.training.cross_validation import (
    HeldOut,
    fold_numbers,
    gains_of_longer_training,
    held_out_predictions,
    rounded,
    twins,
)
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.schemes import SCHEMES, Deterministic


def network():
    return MLP(3, 3, width=4, depth=1, activation="tanh")


def test_twins_share_a_number_and_folds_keep_them_together():
    inputs = torch.tensor([[1.0, 2.0], [0.0, 1.0], [1.0, 2.0], [3.0, 3.0], [0.0, 1.0 + 1e-7]])
    numbers = twins(Dataset(inputs, torch.tensor([0, 1, 1, 0, 1]), torch.arange(5)))
    assert numbers.tolist() == [0, 1, 0, 2, 3]
    folds = fold_numbers(torch.tensor([0, 1, 1, 0, 1]), numbers, 4)
    assert folds[0] == folds[2]
    assert sorted(folds[[0, 1, 3, 4]].tolist()) == [0, 1, 2, 3]


def test_folds_hold_as_many_of_every_class_as_each_other():
    targets = torch.tensor([0] * 20 + [1] * 10 + [2] * 5)
    folds = fold_numbers(targets, torch.arange(35), 5, seed=3)
    counts = torch.stack([torch.bincount(targets[folds == fold], minlength=3) for fold in range(5)])
    assert counts.tolist() == [[4, 2, 1]] * 5
    assert not torch.equal(folds, fold_numbers(targets, torch.arange(35), 5, seed=4))


@pytest.mark.parametrize("folds", [1, 4])
def test_more_folds_than_different_examples_are_refused(folds):
    with pytest.raises(ValueError, match=rf"folds must lie in 2\.\.3, the number of different examples, got {folds}"):
        fold_numbers(torch.tensor([0, 1, 0, 1]), torch.tensor([0, 1, 2, 2]), folds)


def test_folds_are_a_whole_number(as_installed):
    with pytest.raises(TypeError, match=r"folds must be a whole number, got float 2\.5"):
        fold_numbers(torch.tensor([0, 1, 0, 1]), torch.arange(4), 2.5)


def test_every_example_is_predicted_by_the_network_that_was_trained_without_its_fold(train):
    scheme = Deterministic("l2", weight_decay=0.05)
    schedule = Schedule(30, 0.05)
    (found,) = held_out_predictions([scheme], network, train, [0, 1], schedule, folds=4)
    assert found.members.shape == (2, 40, 3)
    outside = (found.folds == 2).nonzero()[:, 0]
    (alone,) = fit_schemes(
        [scheme], network, train.select((found.folds != 2).nonzero()[:, 0]), [1], schedule, tolerance=None
    )
    expected = predict_classes(alone.at(0), train.select(outside).inputs).probabilities
    torch.testing.assert_close(found.members[1, outside], expected, rtol=0, atol=1e-4)  # in single precision
    assert found.members.dtype == torch.float64
    assert not found.member_epistemic.any()


def test_examples_are_rounded_where_that_keeps_them_apart(train):
    assert train.inputs.dtype == torch.float64
    assert rounded(train).inputs.dtype == torch.float32
    columns = torch.stack([torch.arange(6.0, dtype=torch.float64), torch.full((6,), 0.1, dtype=torch.float64)], dim=1)
    targets, ids = torch.arange(6) % 2, torch.arange(6)
    assert rounded(Dataset(columns, targets, ids)).inputs.dtype == torch.float32
    for far in (columns + 1e9, columns * 1e300):
        kept = Dataset(far, targets, ids)
        assert rounded(kept) is kept
    single = Dataset(columns.float() + 1e9, targets, ids)
    assert rounded(single) is single


def test_a_gain_is_what_a_network_that_is_trained_twice_as_long_loses_less(train):
    scheme, schedule = Deterministic("l2", weight_decay=0.05), Schedule(6, 0.02)
    (found,) = held_out_predictions([scheme], network, train, [3, 1], schedule, folds=4)
    gains = gains_of_longer_training(found, scheme, network, train, 3, schedule)
    (longer,) = held_out_predictions([scheme], network, train, [3], Schedule(12, 0.02), folds=4)
    first = found.folds == 0
    own = [one.members[0, first].gather(1, train.targets[first, None])[:, 0] for one in (found, longer)]
    torch.testing.assert_close(gains, own[1].log() - own[0].log())
    assert gains.mean() > 0


def test_bayesian_members_have_uncertainty_of_their_own(train):
    (found,) = held_out_predictions([SCHEMES["bnn"]], network, train, [0], Schedule(5, 0.05), folds=2)
    assert (found.member_epistemic > 0).all()
    torch.testing.assert_close(found.epistemic, found.member_epistemic[0])


def test_uncertainty_of_an_ensemble_is_that_between_its_members():
    members = torch.tensor([[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]], dtype=torch.float64)
    found = HeldOut(torch.zeros(2, dtype=torch.int64), members, torch.zeros(2, 2, dtype=torch.float64))
    assert found.epistemic.tolist() == pytest.approx([math.log(2), 0.0])
    assert found.aleatoric.tolist() == pytest.approx([0.0, math.log(2)])


def test_one_deterministic_network_cannot_tell_what_is_epistemic():
    folds, none = torch.zeros(2, dtype=torch.int64), torch.zeros(1, 2, dtype=torch.float64)
    found = HeldOut(folds, torch.full((1, 2, 2), 0.5, dtype=torch.float64), none)
    assert found.epistemic.isnan().all()
    assert found.aleatoric.isnan().all()
