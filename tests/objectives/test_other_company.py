import pytest
import torch
from torch import nn

import bayes_influence as bi
from bayes_influence.objectives import company as companies
from bayes_influence.objectives.other_company import company
from bayes_influence.objectives.reduction import reduce

PARTS, LENGTH = 20, 8
"""Parts of the data below, and examples of each: four of every part's pass in other company at most."""


def data(length):
    inputs = torch.arange(length).double().unsqueeze(1)
    return bi.Dataset(inputs, torch.arange(length) % 2, torch.arange(length), "train")


@pytest.mark.parametrize(("length", "rows"), [(1, [0]), (2, [0]), (4, [1, 3]), (64, [31, 63]), (100, [31, 63, 95])])
def test_some_examples_of_every_batch_but_never_all(length, rows):
    few, places = company(data(length).batch())
    assert places.tolist() == rows
    assert few.inputs.flatten().tolist() == rows
    assert few.targets.tolist() == [row % 2 for row in rows]


class Counts(nn.Linear):
    """Says how many examples it was given, call by call; the parts with an example of `mixed` are centred."""

    def __init__(self, mixed=()):
        super().__init__(1, 2)
        self.mixed = mixed

    def forward(self, x):
        CALLS.append(x.flatten().tolist())
        mean = x.mean(0) if any(number in CALLS[-1] for number in self.mixed) else 0
        return super().forward(x - mean)


CALLS: list[list[float]] = []


def calls_of(network, monkeypatch, parameters="last-layer"):
    """What came of passing all parts, call by call from the first part on."""
    monkeypatch.setattr(companies, "ENTRIES", LENGTH)
    monkeypatch.setattr(companies, "FEW_NUMBERS", 0)
    CALLS.clear()
    reduce(bi.Objective(network.double(), bi.CrossEntropy(), parameters=parameters), data(PARTS * LENGTH), alone=False)
    first = next(number for number, call in enumerate(CALLS) if len(call) == LENGTH)
    return CALLS[first:]


@pytest.mark.parametrize("parameters", ["last-layer", "all"])
def test_examples_of_several_parts_pass_together_and_those_of_every_part_do(monkeypatch, parameters):
    calls = calls_of(Counts(), monkeypatch, parameters)
    assert calls[1] == [3, 7]  # the first part's at once
    others = [call for call in calls if len(call) < LENGTH]
    assert [len(call) for call in others] == [2, *[4] * 9, 2]
    assert [number for call in others for number in call] == [
        number for number in range(PARTS * LENGTH) if number % 4 == 3
    ]


@pytest.mark.parametrize("parameters", ["last-layer", "all"])
@pytest.mark.parametrize("mixed", [3, 85, PARTS * LENGTH - 1])
def test_a_single_part_that_mixes_is_found(monkeypatch, mixed, parameters):
    with pytest.raises(ValueError, match=r"train: the loss of an example depends on the other examples of its batch"):
        calls_of(Counts([mixed]), monkeypatch, parameters)
    part = mixed // LENGTH
    assert sum(len(call) == LENGTH for call in CALLS) <= part + 2  # it does not wait longer than for the next part


class KeepsLater(Counts):
    """From one example on the mean of what it sees is kept, and taken off ever after."""

    def __init__(self):
        super().__init__()
        self.mean = None

    def forward(self, x):
        if self.mean is None and (x > 100).any():
            self.mean = x.mean()
        return super().forward(x - (0 if self.mean is None else self.mean))


@pytest.mark.parametrize("parameters", ["last-layer", "all"])
def test_what_a_network_keeps_from_a_later_part_is_noticed_there(monkeypatch, parameters):
    with pytest.raises(ValueError, match=r"depends on the other examples of its batch|keeps mean from its first calls"):
        calls_of(KeepsLater(), monkeypatch, parameters)
    assert sum(len(call) == LENGTH for call in CALLS) <= 14  # its first example is of the thirteenth
