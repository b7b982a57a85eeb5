"""The five gaps between retraining and an influence estimate (Bae et al. 2022): network, linearisation or solver?

Between a retraining from scratch and what a solver returns stand four intermediate answers. Neighbours differ in one
thing only, so the distance between them says what that one thing costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from jaxtyping import Float

GAPS = {
    ("cold", "warm"): "warm-start",
    ("warm", "proximal"): "proximity",
    ("proximal", "pbrf"): "non-convergence",
    ("pbrf", "linear"): "linearisation",
    ("linear", "solver"): "solver",
}
"""What is between two neighbouring stages: cold retraining, retraining from the fit, the same held near the fit, the
proximal Bregman response, its linearisation, and what the solver makes of that."""

STAGES = ("cold", "warm", "proximal", "pbrf", "linear", "solver")
"""The stages in their order."""


def waterfall(
    outputs: Mapping[str, Float[np.ndarray, "k_plus_1 n C"]],
    losses: Mapping[str, Float[np.ndarray, "k_plus_1 t"]],
    examples: Sequence[int],
) -> pd.DataFrame:
    """The gaps of one network, per removed example.

    Args:
        outputs: For every stage the outputs on the training examples, first of its control, then after each removal.
        losses: For every stage the test losses, likewise.
        examples: Ids of the k removed examples.

    Returns:
        One row per removed example and gap between two stages that were both measured:

        - `output_distance`: mean over training examples of the Euclidean distance between the two stages' outputs, the
          networks as they are (Bae et al. 2022);
        - `effect_distance`: the same for what the removal did, each stage counted from its own control;
        - `loss_difference`: mean over test examples of |change of the loss at one stage - at the other|, each counted
          from its own control;
        - `output_effect` and `loss_effect`: how large what the removal did is at the stage that the gap starts from:
          the same two measures against the control.

    Raises:
        ValueError: If a stage is unknown, fewer than two neighbours were measured, or shapes do not fit.
    """
    measured = _checked(outputs, losses, len(examples))
    frames = []
    for before, after in pairwise(measured):
        first, second = outputs[before], outputs[after]
        effects = first[1:] - first[:1], second[1:] - second[:1]
        changes = losses[before][1:] - losses[before][:1], losses[after][1:] - losses[after][:1]
        columns = {
            "gap": GAPS.get((before, after), f"{before} to {after}"),
            "before": before,
            "after": after,
            "example": np.asarray(examples),
            "output_distance": _distance(first[1:], second[1:]),
            "effect_distance": _distance(*effects),
            "loss_difference": np.abs(changes[0] - changes[1]).mean(axis=-1),
            "output_effect": _distance(first[1:], first[:1]),
            "loss_effect": np.abs(changes[0]).mean(axis=-1),
        }
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)


def average_waterfall(gaps: pd.DataFrame, by: Sequence[str] = ()) -> pd.DataFrame:
    """Means of a waterfall over removed examples (and seeds), the gaps in their order.

    Args:
        gaps: Rows of `waterfall`, possibly of several networks.
        by: Columns whose values are kept apart.

    Returns:
        One row per gap (and value of `by`): means of every measure, and `output_share`, the gap's part of the sum of
        all output distances.
    """
    keys = [*by, "gap", "before", "after"]
    measures = ["output_distance", "effect_distance", "loss_difference", "output_effect", "loss_effect"]
    means = gaps.groupby(keys, sort=False)[measures].mean().reset_index()
    groups = means.groupby(list(by))["output_distance"] if by else None
    total = means["output_distance"].sum() if groups is None else groups.transform("sum")
    return means.assign(output_share=means["output_distance"] / total)


def _distance(first: Float[np.ndarray, "k n C"], second: Float[np.ndarray, "#k n C"]) -> Float[np.ndarray, " k"]:
    """Mean over examples of the Euclidean distance between outputs."""
    return np.linalg.norm(first - second, axis=-1).mean(axis=-1)


def _checked(outputs: Mapping[str, np.ndarray], losses: Mapping[str, np.ndarray], count: int) -> list[str]:
    """The stages that were measured, in their order."""
    unknown = sorted((set(outputs) | set(losses)) - set(STAGES))
    if unknown or set(outputs) != set(losses):
        raise ValueError(
            f"outputs and losses must be given for the same stages out of {', '.join(STAGES)}, "
            f"got {sorted(outputs)} and {sorted(losses)}"
        )
    measured = [stage for stage in STAGES if stage in outputs]
    if len(measured) < 2:
        raise ValueError(f"a gap lies between two stages, got {measured}")
    rows = {len(values) for side in (outputs, losses) for values in side.values()}
    if rows != {count + 1} or count < 1:
        raise ValueError(
            f"every stage needs a control and {count} removals, {count + 1} rows, at least two; got {sorted(rows)} rows"
        )
    return measured
