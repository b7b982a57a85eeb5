"""Softmax regression at its minimum, and the test example that a study explains."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from bayes_influence.data.batch import Batch
from bayes_influence.data.dataset import Dataset
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.predictive import predictive_of
from bayes_influence.objectives.regularisers import WeightDecay
from bayes_influence.training.minimum import minimum_of


def wrong_example(objective: Objective, test: Dataset) -> Dataset:
    """The misclassified test example of median loss.

    Raises:
        ValueError: If every test example is classified rightly.
    """
    batch = test.to(dtype=torch.float64).batch()
    with torch.no_grad():
        losses = objective.losses(objective.params, batch)
        wrong = ~_right(objective, batch)
    if not wrong.any():
        raise ValueError(f"all {len(test)} test examples of {test.name} are classified rightly; one error is needed")
    ordered = wrong.nonzero()[:, 0][losses[wrong].argsort()]
    return test.select([int(ordered[len(ordered) // 2])])


def accuracy(objective: Objective, test: Dataset) -> float:
    """The share of test examples that are classified rightly, by mean outputs where the network is Bayesian."""
    with torch.no_grad():
        return float(_right(objective, test.to(dtype=torch.float64).batch()).double().mean())


def _right(objective: Objective, batch: Batch) -> Bool[Tensor, " B"]:
    outputs = objective.outputs(objective.params, batch.inputs)
    return predictive_of(objective.likelihood, "whether a prediction is right").hits(outputs, batch.targets) > 0


def fitted_regression(train: Dataset, decay: float) -> Objective:
    """Softmax regression at its minimum."""
    network = nn.Linear(train.inputs.shape[1], train.n_classes, dtype=torch.float64)
    return minimum_of(Objective(network, CrossEntropy(), WeightDecay(decay)), train)
