"""A fitted problem: what of it is differentiated, in blocks, and what is refused."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from bayes_influence.curvature import cost
from bayes_influence.curvature.cost import TooLargeError
from bayes_influence.data.dataset import Dataset
from bayes_influence.influence import problem as module
from bayes_influence.influence.problem import FittedProblem, check_finite, check_float_inputs
from bayes_influence.objectives.derivatives import per_example_gradients
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay


def moved(objective):
    """Away from the minimum, where the gradient of J is not 0."""
    return objective.at({name: value + 0.1 for name, value in objective.params.items()})


@pytest.mark.parametrize("batch_size", [7, 40, 1024])
def test_gradient_is_that_of_the_whole_objective(deep, train, batch_size):
    """By autograd, of the mean of the losses and the regulariser."""
    objective = moved(deep)
    leaves = {name: value.clone().requires_grad_() for name, value in objective.params.items()}
    value = objective.losses(leaves, train.batch()).mean() + 0.01 * sum(p.square().sum() for p in leaves.values())
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(value, list(leaves.values()))])
    found = FittedProblem(objective, train, batch_size=batch_size)
    torch.testing.assert_close(found.gradient, expected)
    assert found.gradient.abs().min() > 0
    known = FittedProblem(objective, train, batch_size=batch_size)
    known.know_gradient(per_example_gradients(objective, train.batch()).sum(0))
    torch.testing.assert_close(known.gradient, expected)


@pytest.mark.parametrize("bytes_at_once", [1, 31 * 8, 5 * 31 * 8, 1 << 28])
def test_gradients_come_in_blocks_of_what_fits(deep, train, monkeypatch, bytes_at_once):
    monkeypatch.setattr(module, "BLOCK_BYTES", bytes_at_once)
    problem = FittedProblem(deep, train, batch_size=16)
    assert problem.size == 31
    most = {1: 1, 248: 1, 1240: 5, 1 << 28: 16}[bytes_at_once]
    assert problem.block_length(31) == most
    blocks = list(problem.gradient_blocks(problem.data))
    assert [len(block) for block in blocks] == [len(rows) for rows in torch.arange(40).split(most)]
    leaves = [value.clone().requires_grad_() for value in deep.params.values()]
    losses = deep.losses(dict(zip(deep.params, leaves, strict=True)), train.batch())
    rows = [torch.cat([g.flatten() for g in torch.autograd.grad(loss, leaves, retain_graph=True)]) for loss in losses]
    torch.testing.assert_close(torch.cat(blocks), torch.stack(rows))
    torch.testing.assert_close(problem.gradients(problem.data), torch.stack(rows))


def test_gradients_that_do_not_fit_are_refused(deep, train, monkeypatch):
    monkeypatch.setattr(cost, "SMALL_BYTES", 0)
    monkeypatch.setattr(cost, "available_bytes", lambda device: 2 * 40 * 31 * 8 - 1)
    problem = FittedProblem(deep, train)
    with pytest.raises(
        TooLargeError, match=r"gradients of 40 examples in 31 parameters .*; take fewer examples at a time"
    ):
        problem.gradients(problem.data)
    assert problem.gradients(problem.data.select(range(39))).shape == (39, 31)


def test_blocks_of_nothing_hold_as_many_as_a_batch(deep, train):
    problem = FittedProblem(deep, train, batch_size=16)
    assert problem.block_length(0) == 16
    assert problem.block_length(module.BLOCK_BYTES) == 1
    assert FittedProblem(deep, train, torch.float32, 10**9).block_length(1) == module.BLOCK_BYTES // 4


def test_selection_says_the_shorter_list(deep, train):
    names = {
        "all": "all 31 parameters",
        "last-layer": "15 of 31 parameters: 2.weight, 2.bias",
    }
    for parameters, said in names.items():
        assert FittedProblem(replace(deep, parameters=parameters), train).selection == said
    three = replace(deep, parameters=["0.weight", "0.bias", "2.weight"])
    assert FittedProblem(three, train).selection == "28 of 31 parameters: without 2.bias"


def test_what_a_gradient_is_not_finite_of_is_named(train):
    """The root of a probability that is 0 has an infinite slope."""

    def rooted(outputs, targets):
        return (outputs[:, 0] - outputs[:, 0].detach() + (targets == 2).to(outputs)).abs().sqrt()

    objective = Objective(nn.Linear(3, 3).double(), rooted, WeightDecay(0.1))
    wrong = train.ids[train.targets != 2].tolist()
    problem = FittedProblem(objective, train)
    with pytest.raises(ValueError, match=rf"the gradient is not finite for {len(wrong)} of 40 .*ids \[{wrong[0]}, "):
        problem.gradients(problem.data)


def test_check_finite_names_at_most_five_rows(train):
    values = torch.zeros(40, 2, 2)
    check_finite(values, train, "the score")
    values[3:10, 1, 0] = torch.nan
    first = ", ".join(str(number) for number in train.ids[3:8].tolist())
    with pytest.raises(ValueError, match=rf"the score is not finite for 7 of 40 examples.*\(ids \[{first}\]\)"):
        check_finite(values, train, "the score")


def test_only_real_inputs_are_differentiated():
    check_float_inputs({"a": torch.ones(2), "b": torch.ones(2).double()}, "a perturbation")
    with pytest.raises(TypeError, match=r"a perturbation needs real inputs, got torch.int64; perturb an embedding"):
        check_float_inputs({"a": torch.ones(2), "b": torch.arange(2)}, "a perturbation")


class Routed(nn.Module):
    """The sign of the first input says which layer an example goes through."""

    def __init__(self):
        super().__init__()
        self.low, self.high, self.never = (nn.Linear(3, 3, bias=False).double() for _ in range(3))

    def forward(self, inputs):
        high = inputs[:, :1] > 0
        parts = [layer(inputs) for layer, here in ((self.low, ~high), (self.high, high)) if here.any()]
        return torch.where(high, parts[-1], parts[0])


def test_a_parameter_may_take_part_in_a_later_batch_only(train):
    data = train.select(train.inputs[:, 0].argsort())
    objective = Objective(Routed(), CrossEntropy(), WeightDecay(0.1), parameters=["low.weight", "high.weight"])
    assert (data.inputs[:4, 0] < 0).all()
    assert FittedProblem(objective, data, batch_size=4).size == 18
    with pytest.raises(
        ValueError, match=r"parameters \['never.weight'\] do not take part .*'low.weight', 'high.weight'"
    ):
        FittedProblem(replace(objective, parameters=["low.weight", "never.weight", "high.weight"]), data, batch_size=4)


@pytest.mark.parametrize(("parameters", "said"), [("all", "any"), ("last-layer", "the selected")])
def test_losses_of_no_parameter_are_refused(deep, train, parameters, said):
    def constant(outputs, targets):
        return outputs.detach().logsumexp(dim=1)

    objective = replace(deep, likelihood=constant, parameters=parameters)
    with pytest.raises(ValueError, match=f"the losses do not depend on {said} parameter"):
        FittedProblem(objective, train)


@pytest.mark.usefixtures("as_installed")
def test_what_is_no_problem_is_refused(deep, train):
    with pytest.raises(TypeError, match="the training examples must be a Dataset of this library, got"):
        FittedProblem(deep, train.inputs)
    with pytest.raises(TypeError, match=r"dtype must be a real floating-point dtype, got torch\.int64"):
        FittedProblem(deep, train, torch.int64)
    with pytest.raises(ValueError, match="the batch size"):
        FittedProblem(deep, train, batch_size=0)
    with pytest.raises(TypeError, match=r"^examples must be a Dataset of this library, got"):
        FittedProblem(deep, train).taken([1, 2])


def test_other_examples_are_taken_as_the_training_examples_are(deep, train, test):
    whole = FittedProblem(deep, train, torch.float32)
    data, objective = whole.taken(test)
    assert objective is whole.objective
    assert torch.equal(data.inputs, test.inputs.float())
    head = FittedProblem(replace(deep, parameters="last-layer"), train)
    data, objective = head.taken(test)
    assert objective is head.reduced
    assert head.is_linear_head
    assert not whole.is_linear_head
    first = deep.params["0.weight"], deep.params["0.bias"]
    torch.testing.assert_close(data.inputs, nn.functional.linear(test.inputs, *first).tanh())
    assert isinstance(data, Dataset)
    assert torch.equal(data.ids, test.ids)
