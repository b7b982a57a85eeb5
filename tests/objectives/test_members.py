from dataclasses import replace

import pytest
import torch
from torch import nn

from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.members import Members, differing, member
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay


@pytest.fixture
def pair(network):
    objective = Objective(network, CrossEntropy())
    return [objective, objective.at({name: value + 1 for name, value in objective.params.items()})]


def test_an_objective_is_a_stack_of_one(pair):
    members = Members.of(pair[0])
    assert len(members) == 1
    assert members.labels == ("network 0",)
    assert all(torch.equal(members.at(0).params[name], value) for name, value in pair[0].params.items())
    assert Members.of(members) is members


def test_every_member_stands_where_its_objective_stood(pair):
    members = Members.of(pair, ["a", "b"])
    for index, objective in enumerate(members):
        assert all(torch.equal(objective.params[name], value) for name, value in pair[index].params.items())
    (second,) = members.select([1])
    assert torch.equal(second.params["0.bias"], pair[1].params["0.bias"])
    assert members.select([1, 0]).labels == ("b", "a")


def test_buffers_in_which_members_differ_are_stacked(data):
    network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).double()
    one = Objective(network, CrossEntropy())
    other = one.at(one.params, {"1.running_mean": torch.ones(3).double()})
    members = Members.of([one, other])
    assert set(members.buffers) == {"1.running_mean"}
    for index, objective in enumerate((one, other)):
        losses = objective.losses(objective.params, data.batch())
        again = members.at(index)
        assert torch.equal(again.losses(again.params, data.batch()), losses)
        assert torch.equal(one.losses(member(members.state, index), data.batch()), losses)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ("a",)}, "as many labels and seeds as parameters"),
        ({"labels": ()}, "as many labels and seeds as parameters"),
    ],
)
def test_stacks_that_do_not_fit_are_refused(pair, change, message):
    members = Members.of(pair)
    with pytest.raises(ValueError, match=message):
        Members(**{**vars(members), **change})


def test_members_of_nothing_and_of_different_networks_are_refused(pair, network):
    with pytest.raises(ValueError, match="at least one objective, got none"):
        Members.of([])
    other = Objective(network, CrossEntropy(), parameters="last-layer")
    with pytest.raises(ValueError, match="must share one architecture and take influence in the same parameters"):
        Members.of([pair[0], other])


@pytest.mark.parametrize(("count", "shown"), [(2, "a, b"), (3, "a, b, c"), (4, "a, b, c, ...")])
def test_a_long_stack_is_shown_by_its_first_labels(count, shown):
    objectives = [Objective(nn.Linear(2, 2), CrossEntropy()) for _ in range(count)]
    members = replace(Members.of(objectives), labels=tuple("abcd"[:count]))
    assert repr(members).startswith(f"Members({count} of Objective(")
    assert repr(members).endswith(f": {shown})")


def test_objectives_that_differ_are_no_stack():
    def one(likelihood=None, regulariser=None, weight=1.0, activation=None):
        network = nn.Sequential(nn.Linear(2, 2), activation or nn.Tanh(), nn.Linear(2, 2))
        return Objective(network, likelihood or CrossEntropy(), regulariser or WeightDecay(0.1), weight)

    assert len(Members.of([one(), one()])) == 2
    for other, what in (
        (one(likelihood=CrossEntropy(label_smoothing=0.1)), "likelihood"),
        (one(regulariser=WeightDecay(0.2)), "regulariser"),
        (one(weight=2.0), "regulariser_weight"),
        (one(activation=nn.ReLU()), "other layers"),
    ):
        with pytest.raises(ValueError, match=what):
            Members.of([one(), other])


def test_a_single_member_differs_from_none():
    assert differing({"a": torch.tensor([[torch.nan]])}) == {}
    two = {"a": torch.tensor([[1.0], [1.0]]), "b": torch.tensor([[1.0], [2.0]])}
    assert set(differing(two)) == {"b"}


@pytest.mark.usefixtures("as_installed")
def test_what_is_no_member_is_refused(pair, network):
    with pytest.raises(TypeError, match="each trained network must be one Objective, got"):
        Members.of([pair[0], network])
    members = Members.of(pair)
    with pytest.raises(TypeError, match="a member's index"):
        members.at("1")
    with pytest.raises(ValueError, match=r"there are 2 members: their index lies in 0\.\.1, got -1"):
        members.at(-1)
    for labels in ("ab", ("a", 1)):
        with pytest.raises(TypeError, match="labels"):
            Members(**{**vars(members), "labels": labels})
