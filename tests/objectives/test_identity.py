"""What an objective is: every part counts, the numbers inside the module that it came with do not."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from bayes_influence.data.fingerprint import fingerprint
from bayes_influence.objectives.identity import identity
from bayes_influence.objectives.likelihoods import CrossEntropy, GaussianNoise
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import NoRegulariser, WeightDecay


def network(seed=0, activation=None):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), activation or nn.Tanh(), nn.Linear(3, 2))


PLAIN = Objective(network(), CrossEntropy(), WeightDecay(0.1), 0.5, "last-layer")


def mark(objective):
    return fingerprint(objective=identity(objective))


@pytest.mark.parametrize(
    "other",
    [
        replace(PLAIN, likelihood=GaussianNoise()),
        replace(PLAIN, regulariser=WeightDecay(0.2)),
        replace(PLAIN, regulariser=NoRegulariser()),
        replace(PLAIN, regulariser_weight=0.6),
        replace(PLAIN, parameters="all"),
        PLAIN.at({name: value + 1e-6 for name, value in PLAIN.params.items()}),
        PLAIN.at(PLAIN.params, {"1.running_mean": torch.ones(3)}),
        PLAIN.to(dtype=torch.float64),
        replace(PLAIN, network=network(activation=nn.ReLU())),
    ],
)
def test_every_part_counts(other):
    assert mark(other) != mark(PLAIN)


def test_equal_objectives_are_equal_however_they_were_made():
    again = Objective(network(1), CrossEntropy(), WeightDecay(0.1), 0.5, ["3.weight", "3.bias"]).at(PLAIN.params)
    assert mark(again) == mark(PLAIN)
