"""The pipeline of the image study: take the last layer, estimate, rank, refit, compare, as the choices say."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from jaxtyping import Int
from torch import Tensor

from bayes_influence.data.dataset import Split
from bayes_influence.evaluation.agreement import agreement
from bayes_influence.experiments.papers.fragility.choices import Choices
from bayes_influence.experiments.papers.fragility.heads import (
    Head,
    drops,
    estimated_effects,
    head_of,
    largest_effects,
    refitted,
    relative_drift,
    true_effects,
)
from bayes_influence.experiments.papers.fragility.image_settings import ImageCell
from bayes_influence.experiments.store.cells import cell_key
from bayes_influence.experiments.training.run import run_training
from bayes_influence.objectives.objective import Objective
from bayes_influence.retraining.refits import Refits

ORDER = (
    "control",
    "fixed_mean",
    "biases",
    "solved",
    "regulariser_in_hessian",
    "double_precision",
    "exact_refits",
)
"""Choices that concern every image network, in the order in which they are put right, after those of some networks.

The published refits move the last layer only, LiSSA's system is damped, and as many images are removed as here, so that
`last_layer_refits`, `damped` and `points` change nothing; nor do the choices about averages and Bayesian networks.
"""


@dataclass(eq=False)
class HeadPipeline:
    """The last layer of one image network under any choices; what two choices share is computed once.

    Attributes:
        trained: The network.
        split: Its data.
        cell: Which network it is, how many images are removed, and the steps of a refit.
        train_accuracy: After training.
    """

    trained: Objective
    split: Split
    cell: ImageCell
    train_accuracy: float
    _heads: dict[tuple[bool, ...], Head] = field(default_factory=dict, repr=False)
    _refits: dict[tuple[object, ...], Refits] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, cell: ImageCell, out: Path, data_folder: str | None, device: str = "cpu") -> HeadPipeline:
        """Trains a network, continued where it was stopped.

        Args:
            cell: Which network, and how.
            out: The study's folder; the training goes into a folder of its own in it.
            data_folder: Where image sets are kept.
            device: Where it is trained.

        Raises:
            FileNotFoundError: If its data set is missing.
        """
        name = cell_key(network=cell.network.label.replace(" ", "_"), seed=cell.seed)
        run, folder = cell.run(device), out / "networks" / name
        trained, split = run_training(run, folder, data_folder=data_folder, progress=False)
        return cls(trained.at(0), split, cell, float(trained.accuracies[-1, 0]))

    @property
    def order(self) -> tuple[str, ...]:
        """The choices that concern this network, in the order in which they are put right one after the other."""
        network = self.cell.network
        own = {
            "removal_sign": network.small,
            "by_id": not network.small,
            "evaluation_mode": drops(self.trained),
            "working_rate": network.slow,
        }
        return (*(name for name, concerns in own.items() if concerns), *ORDER)

    def measure(self, choices: Choices, which: str) -> tuple[dict[str, Any], pd.DataFrame]:
        """Agreement on one test example, and the effects that it is of, a row per removed image.

        Args:
            choices: How estimate and truth are computed.
            which: One of `TESTS`.
        """
        head = self.head(choices)
        test = head.test_example(which)
        estimated = estimated_effects(head, test, choices, summed=self.cell.network.small, seed=self.cell.seed)
        removed = largest_effects(estimated, head.train, min(self.cell.removals, len(head.train) - 1))
        refits = self.refits(choices, removed)
        effects = true_effects(head, refits, test, choices)
        own = estimated[head.train.positions(removed)]
        row: dict[str, Any] = agreement(own.numpy(), effects.numpy()).to_row()
        row |= {"absolute_spearman": abs(row["spearman"]), "relative_drift": relative_drift(head, refits, test)}
        row |= {"test_example": int(test.ids[0]), "converged": bool(refits.converged.all())}
        pairs = {"example": removed.numpy(), "estimated": own.numpy(), "true": effects.numpy()}
        return row, pd.DataFrame(pairs)

    def head(self, choices: Choices) -> Head:
        """The last layer where these choices have it."""
        key = head_by(choices)
        if key not in self._heads:
            self._heads[key] = head_of(self.trained, self.split, choices)
        return self._heads[key]

    def refits(self, choices: Choices, removed: Int[Tensor, " k"]) -> Refits:
        """The layer without each of the images, and once without removing anything."""
        key = (*head_by(choices), choices.fixed_mean, choices.working_rate, *removed.tolist())
        if key not in self._refits:
            slow = self.cell.network.slow
            self._refits[key] = refitted(self.head(choices), removed, choices, self.cell.refit_epochs, slow=slow)
        return self._refits[key]


def head_by(choices: Choices) -> tuple[bool, ...]:
    """The choices that decide the data and the place of the last layer."""
    return choices.double_precision, choices.exact_refits and choices.double_precision, choices.evaluation_mode
