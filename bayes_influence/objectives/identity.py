"""What an objective is, for a fingerprint of a result that depends on it."""

from __future__ import annotations

from typing import Any

from bayes_influence.data.fingerprint import Structure
from bayes_influence.objectives.objective import Objective


def identity(objective: Objective) -> dict[str, Any]:
    """Everything that an objective's losses and derivatives depend on, as `data.fingerprint.fingerprint` takes it.

    The network counts by its layers and buffers, and its parameters as those that the objective stands at: the ones
    inside the module may be from before the training.

    Args:
        objective: At its fitted parameters.
    """
    return {
        "network": Structure(objective.network),
        "likelihood": objective.likelihood,
        "regulariser": objective.regulariser,
        "regulariser_weight": objective.regulariser_weight,
        "names": objective.names,
        "params": objective.params,
    }
