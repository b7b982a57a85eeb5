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


def test_close_is_equal_but_for_rounding():
    one = torch.tensor([1.0, 0.0]).double()
    assert close(one, one + 1e-9)
    assert not close(one, one + 1e-6)
    assert not close(one, one[:1])
