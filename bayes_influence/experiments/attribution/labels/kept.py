"""Held-out predictions of a search, kept in its folder: what else it does takes no time beside their networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.training.cross_validation import HeldOut

KEPT = "held-out"
"""The cell in which they are kept."""

GAINS = "gains"
"""The array of the gains of a longer training in it."""


@dataclass(frozen=True, eq=False)
class Predicted:
    """What all networks of a search that are trained without a part of the rows come to.

    Attributes:
        tried: Predictions under each scheme.
        gains: What a longer training of the best of them gains, see `gains_of_longer_training`.
    """

    tried: list[HeldOut]
    gains: Float[Tensor, " m"]


def kept_predictions(folder: StudyFolder | None, make: Callable[[], Predicted]) -> Predicted:
    """The predictions that a folder holds, or else new ones, which it then holds.

    Args:
        folder: Of the search, which belongs to these data and networks; None where nothing is kept.
        make: Trains the networks.
    """
    if folder is None:
        return make()
    if not folder.cell_done(KEPT):
        made = make()
        parts = {
            f"{number}-{part.name}": getattr(one, part.name)
            for number, one in enumerate(made.tried)
            for part in fields(HeldOut)
        }
        folder.save_cell(KEPT, {}, {GAINS: made.gains, **parts})
        return made
    arrays = {name: torch.from_numpy(array) for name, array in folder.load_cell(KEPT).arrays.items()}
    count = len(arrays) // len(fields(HeldOut))
    tried = [HeldOut(*(arrays[f"{number}-{part.name}"] for part in fields(HeldOut))) for number in range(count)]
    return Predicted(tried, arrays[GAINS])
