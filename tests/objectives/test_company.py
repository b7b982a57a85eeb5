import pytest
import torch
from torch import nn

import bayes_influence as bi
from bayes_influence.objectives.company import check_losses, close, company


def batch(length):
    return bi.Batch(torch.arange(length).double().unsqueeze(1), torch.arange(length) % 2)


@pytest.mark.parametrize(("length", "rows"), [(1, [0]), (2, [0]), (4, [1, 3]), (64, [31, 63]), (100, [31, 63, 95])])
def test_some_examples_of_every_batch_but_never_all(length, rows):
    few, places = company(batch(length))
    assert places.tolist() == rows
    assert few.inputs.flatten().tolist() == rows
    assert few.targets.tolist() == [row % 2 for row in rows]


def check(network, part=None):
    part = part or batch(64)
    objective = bi.Objective(network.double(), bi.CrossEntropy())
    few, rows = company(part)
    with torch.no_grad():
        outputs = [objective.outputs(objective.params, some.inputs) for some in (part, few)]
    check_losses(objective, part, "train", torch.arange(len(part.targets)), outputs[0], few, rows, outputs[1])


class Centred(nn.Linear):
    def forward(self, x):
        return super().forward(x - x.mean(0))


def test_losses_of_their_own_pass_and_others_are_refused():
    check(nn.Linear(1, 2))
    check(nn.Linear(1, 2), batch(1))
    with pytest.raises(ValueError, match=r"train: the loss of an example depends on the other examples of its batch: "):
        check(Centred(1, 2))
    with pytest.raises(ValueError, match="train: 1 of 2 losses are not finite"):
        check(nn.Linear(1, 2), bi.Batch(torch.tensor([[1.0], [torch.inf]]).double(), torch.tensor([0, 1])))


def test_the_loss_that_moved_most_is_named():
    """In other company the ninety-sixth example's loss moves three times as much as the others'."""
    part = batch(100)
    few, rows = company(part)
    losses = torch.linspace(2, 1, 100).double()
    own = bi.Objective(nn.Linear(1, 2).double(), lambda outputs, targets: outputs)
    moved = losses[rows] + torch.tensor([-0.1, 0.1, 0.3]).double()
    message = rf"depends on .*: {float(losses[95]):.6g} among 100, {float(moved[2]):.6g} among 3\."
    with pytest.raises(ValueError, match=message):
        check_losses(own, part, "train", torch.arange(100), losses, few, rows, moved)


@pytest.mark.parametrize(
    ("first", "second", "allowed"), [(2.0, 0.0, 2.0), (0.0, 2.0, 4.0), (1e-4, 0.0, 1e-3), (0.0, -1e-3, 2e-3)]
)
def test_close_is_equal_but_for_rounding_of_an_entry_and_the_largest(first, second, allowed):
    """By eps^(1/2) (|a_i| + max(max |a|, 1e-3)), eps that of the dtype."""
    one = torch.tensor([first, second]).double()
    step = torch.tensor([0.0, allowed * 2.0**-26]).double()
    assert close(one, one + 0.99 * step)
    assert close(one, one - 0.99 * step)
    assert not close(one, one + 1.01 * step)
    assert not close(one, one - 1.01 * step)


def test_close_is_of_one_shape():
    one = torch.ones(3)
    assert close(one, one)
    assert not close(one, one[:1])
