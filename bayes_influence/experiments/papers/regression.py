"""Softmax regression at its minimum, and the test example that a study explains."""

from __future__ import annotations

import torch
from torch import nn

from bayes_influence.data.dataset import Dataset
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay
from bayes_influence.training.minimum import minimum_of


def wrong_example(objective: Objective, test: Dataset) -> Dataset:
    """The misclassified test example of median loss.

    Raises:
        ValueError: If every test example is classified rightly.
    """
    batch = test.to(dtype=torch.float64).batch()
    losses = objective.losses(objective.params, batch)
    wrong = objective.outputs(objective.params, batch.inputs).argmax(dim=-1) != test.targets
    if not wrong.any():
        raise ValueError(f"all {len(test)} test examples of {test.name} are classified rightly; one error is needed")
    ordered = wrong.nonzero()[:, 0][losses[wrong].argsort()]
    return test.select([int(ordered[len(ordered) // 2])])


def fitted_regression(train: Dataset, decay: float) -> Objective:
    """Softmax regression at its minimum."""
    network = nn.Linear(train.inputs.shape[1], train.n_classes, dtype=torch.float64)
    return minimum_of(Objective(network, CrossEntropy(), WeightDecay(decay)), train)
