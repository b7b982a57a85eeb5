"""Whether two evaluations of the same examples are the same but for rounding."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

_CAUSES = (
    "Nothing can be said of single examples then. Look for losses over pairs, batch norm without running statistics, "
    "means over the batch, padding that counts, outputs of shape (n, 1) against targets of shape (n,), or a network "
    "that draws random numbers in evaluation mode or keeps what it saw"
)


def close(one: Tensor, other: Tensor) -> bool:
    """Equal but for the rounding of another order of sums."""
    tolerance = torch.finfo(one.dtype).eps ** 0.5
    return one.shape == other.shape and bool(
        ((one - other).abs() <= tolerance * (one.abs() + one.abs().amax().clamp(min=1e-3))).all()
    )


def check_same(
    losses: Float[Tensor, " n"],
    rows: Int[Tensor, " k"],
    again: Float[Tensor, " k"],
    name: str,
    among: int,
    how: str = "",
) -> None:
    """Refuses losses of some examples that are others in other company.

    Args:
        losses: In one company.
        rows: Where these examples stand in it.
        again: Theirs in the other.
        name: What the examples are called.
        among: How many the other company are.
        how: What was made of them there.

    Raises:
        ValueError: With the example whose losses differ most.
    """
    if not close(losses[rows], again):
        worst = int((losses[rows] - again).abs().argmax())
        raise ValueError(
            f"{name}: the loss of an example depends on the other examples of its batch{how}: "
            f"{float(losses[rows][worst]):.6g} among {len(losses)}, {float(again[worst]):.6g} among {among}. {_CAUSES}"
        )
