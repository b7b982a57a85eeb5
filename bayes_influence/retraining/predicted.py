"""What an influence estimate predicts, in the form of refits: so that it can be compared with real ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from bayes_influence.data.dataset import Dataset
from bayes_influence.influence.influence import Influence
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.reduction import reduce
from bayes_influence.objectives.reweighting import Removals, as_removals
from bayes_influence.retraining.protocol import RetrainingProtocol, Trained
from bayes_influence.retraining.refits import Refits


@dataclass(frozen=True)
class Predicted(RetrainingProtocol):
    """No refit but where influence says that the parameters go: theta_hat + sum_i (1 - w_i) (C + D)^-1 g_i / n.

    Nothing is minimised: gradient norms are NaN, and none counts as converged.

    Attributes:
        influence: Makes the influence estimate, with its curvature, damping and solver, where a network stands.
    """

    influence: Callable[[Objective], Influence]
    name = "predicted"

    def refit(
        self, trained: Trained, train: Dataset, removed: Removals | Int[Tensor, "*E k"], *, progress: bool = False
    ) -> Refits:
        """As `RetrainingProtocol.refit`."""
        reduction = reduce(trained, train)
        members = reduction.members
        removals = as_removals(removed, len(members))
        lacking = 1 - removals.data_weights(train, torch.float64)
        layout, ends = members.objective.layout, []
        for index, start in enumerate(layout.flatten(members.params)):
            moved = lacking[index].abs().sum(0).nonzero()[:, 0]
            steps = self.influence(members.at(index)).on_parameters(train.ids[moved])
            ends.append(start + (lacking[index][:, moved].to(steps) @ steps).to(start))
        norms = torch.full(lacking.shape[:2], torch.nan, dtype=members.objective.dtype, device=members.objective.device)
        params = layout.unflatten(torch.stack(ends))
        return Refits(reduction, params, removals, norms, torch.zeros_like(norms, dtype=torch.bool))
