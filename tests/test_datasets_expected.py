"""Wherever a `Dataset` is expected, something else is refused by name, with the way to make one."""

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from bayes_influence.data.dataset import Dataset
from bayes_influence.data.standardisation import standardise
from bayes_influence.data.tables import hold_out, leave_out
from bayes_influence.experiments.audit.of_networks import audit
from bayes_influence.influence.influence import Influence
from bayes_influence.models.mlp import MLP
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.reduction import reduce
from bayes_influence.objectives.regularisers import WeightDecay
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.minibatch import train_minibatches
from bayes_influence.training.minibatch_schedule import MinibatchSchedule
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.schemes import find_schemes

INPUTS, CLASSES = torch.arange(12.0, dtype=torch.float64).reshape(6, 2), torch.tensor([0, 1, 0, 1, 0, 1])
OURS, THEIRS = Dataset(INPUTS, CLASSES, torch.arange(6)), TensorDataset(INPUTS, CLASSES)
OBJECTIVE = Objective(nn.Linear(2, 2).double(), CrossEntropy(), WeightDecay(0.1))
STACKED = {name: value.unsqueeze(0) for name, value in OBJECTIVE.params.items()}


@pytest.mark.parametrize(
    "use",
    [
        lambda: Influence(OBJECTIVE, THEIRS),
        lambda: reduce(OBJECTIVE, THEIRS),
        lambda: fit_schemes(find_schemes(["weight-decay"]), lambda: MLP(2, 2), THEIRS, [0], Schedule(3)),
        lambda: train_minibatches(OBJECTIVE, STACKED, THEIRS, MinibatchSchedule(1, 2, 0.1), [0]),
        lambda: audit(OBJECTIVE, THEIRS, OURS),
        lambda: audit(OBJECTIVE, OURS, THEIRS),
        lambda: standardise(OURS, THEIRS),
        lambda: hold_out(THEIRS),
        lambda: leave_out(THEIRS, 0),
    ],
)
def test_a_dataset_of_torch_is_told_from_ours(use, as_installed):
    with pytest.raises(TypeError, match=r"must be a Dataset of this library, got torch's TensorDataset; take"):
        use()
