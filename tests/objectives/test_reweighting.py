import pytest
import torch
from torch import nn

from bayes_influence.data.dataset import Dataset
from bayes_influence.data.synthetic import logistic_classes
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.reweighting import (
    Removals,
    as_removals,
    example_losses,
    largest_losses,
    removal_weights,
)


@pytest.fixture
def train():
    return logistic_classes(40, n_features=3, n_classes=3, seed=1).dataset


@pytest.fixture
def removed():
    return torch.tensor([[3, 8, 21], [8, 21, 30]])


@pytest.fixture
def objective():
    torch.manual_seed(0)
    return Objective(nn.Linear(3, 3).double(), CrossEntropy())


def test_the_largest_losses_come_first(objective, train):
    ids = largest_losses(objective, train, 5)
    losses = objective.losses(objective.params, train.batch())
    assert losses[train.positions(ids)].tolist() == sorted(losses.tolist(), reverse=True)[:5]


@pytest.mark.parametrize("count", [0, 41])
def test_more_examples_than_there_are_are_refused(objective, train, count):
    with pytest.raises(ValueError, match=f"between 1 and 40 examples can be removed one at a time, got {count}"):
        largest_losses(objective, train, count)


def test_the_control_is_untouched_and_a_removed_example_weighs_nothing(train):
    weights = Removals.one_at_a_time(torch.tensor([[3, 17]])).data_weights(train)
    expected = torch.ones(1, 3, 40, dtype=torch.float64)
    expected[0, 1, 3] = expected[0, 2, 17] = 0
    assert torch.equal(weights, expected)


def test_positions_are_found_by_id(train):
    shuffled = train.select(list(reversed(range(40))))
    weights = Removals.one_at_a_time(torch.tensor([[3]])).data_weights(shuffled)
    assert weights[0, 1].argmin() == 36


def test_renormalised_weights_are_a_mean_over_the_rest(train):
    group = torch.tensor([0, 1, 2, 3])
    fixed = Removals.of_groups([group], seeds=2).data_weights(train)
    renormalised = Removals.of_groups([group], seeds=2, convention="renormalised").data_weights(train)
    assert fixed[:, 1].sum(-1).tolist() == [36, 36]
    torch.testing.assert_close(renormalised[:, 1].sum(-1), torch.full((2,), 40.0, dtype=torch.float64))
    torch.testing.assert_close(renormalised[:, 1], fixed[:, 1] * 40 / 36)
    assert torch.equal(renormalised[:, 0], torch.ones(2, 40, dtype=torch.float64))


def test_ids_stand_for_leave_one_out(train, removed):
    removals = as_removals(removed, 2)
    assert removals.single
    assert removals.convention == "fixed"
    assert torch.equal(removals.positions(train), removed)
    assert as_removals(removals, 2) is removals


def test_seeds_can_be_picked(removed):
    assert [int(group) for group in as_removals(removed, 2).of_seeds([1]).groups[0]] == removed[1].tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((),), "same number of removals, at least one"),
        (((torch.tensor([1]),), ()), "same number of removals"),
        (((torch.tensor([1, 1]),),), r"each removed example once, and at least one, got \[1, 1\]"),
        (((torch.tensor([], dtype=torch.int64),),), "at least one, got"),
    ],
)
def test_removals_that_mean_nothing_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Removals(arguments)


def test_an_unknown_convention_is_refused(as_installed):
    group = torch.tensor([1])
    for refused in (lambda: Removals(((group,),), "sum"), lambda: removal_weights(group, "sum", torch.ones(3))):
        with pytest.raises(ValueError, match="the convention must be one of fixed, renormalised, got 'sum'"):
            refused()


def test_an_unknown_id_is_refused(train):
    with pytest.raises(ValueError, match=r"no example has id \[99\]; ids run from 0 to 39"):
        Removals.one_at_a_time(torch.tensor([[99]])).data_weights(train)


def test_removing_everything_is_refused(train):
    with pytest.raises(ValueError, match="a removal of 40 of 40 training examples leaves none"):
        Removals.of_groups([torch.arange(40)], seeds=1).data_weights(train)


@pytest.mark.parametrize("ids", [torch.tensor([[True, False]]), torch.tensor([[1.0, 2.0]])])
def test_masks_and_real_numbers_are_no_removals(ids, as_installed):
    with pytest.raises(TypeError, match=r"ids must be whole numbers, got (booleans|float32)"):
        as_removals(ids, 1)
    with pytest.raises(TypeError, match=r"ids must be whole numbers, got (booleans|float32)"):
        Removals.of_groups([ids[0]], seeds=1)


def test_groups_may_be_lists_of_ids(train, as_installed):
    weights = Removals.of_groups([[3, 5], range(2)], seeds=1).data_weights(train)
    assert weights[0, 1].argwhere().numel() == weights[0, 2].argwhere().numel() == 38
    assert weights[0, 1, [3, 5]].tolist() == weights[0, 2, [0, 1]].tolist() == [0, 0]


def test_ids_of_one_row_stand_for_every_network(train):
    removals = as_removals(torch.tensor([3, 8]), 3)
    assert len(removals.groups) == 3
    assert all(torch.equal(removals.positions(train)[row], torch.tensor([3, 8])) for row in range(3))


def test_removals_for_another_number_of_networks_are_refused(removed):
    with pytest.raises(ValueError, match="removals for 2 networks, but 3 are refitted; give one list each"):
        as_removals(removed, 3)


def test_ids_may_be_a_list(train, as_installed):
    assert torch.equal(as_removals([3, 8], 2).positions(train), torch.tensor([[3, 8], [3, 8]]))


def test_what_has_no_losses_is_refused(objective, train, as_installed):
    with pytest.raises(TypeError, match="what has losses must be one Objective, got"):
        largest_losses(objective.network, train, 2)
    with pytest.raises(TypeError, match="the training examples must be a Dataset of this library"):
        largest_losses(objective, train.inputs, 2)
    with pytest.raises(TypeError, match="count must be"):
        largest_losses(objective, train, 2.5)


def test_losses_of_a_whole_batch_are_refused(objective, train):
    whole = Objective(objective.network, lambda outputs, targets: CrossEntropy()(outputs, targets).mean())
    with pytest.raises(ValueError, match="one loss per example"):
        example_losses(whole, train)


def test_targets_of_another_kind_are_refused_in_words(objective, train):
    real = Dataset(train.inputs, train.targets.double(), train.ids)
    with pytest.raises(TypeError, match=r"CrossEntropy needs class indices, int64, got torch.float64"):
        example_losses(objective, real)
