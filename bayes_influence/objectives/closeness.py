"""Whether two evaluations of the same examples are the same but for rounding."""

from __future__ import annotations

import torch
from jaxtyping import Float
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
    losses: Float[Tensor, " k"], again: Float[Tensor, " k"], name: str, among: tuple[int, int], how: str = ""
) -> None:
    """Refuses losses of some examples that are others in other company.

    Args:
        losses: In one company.
        again: In the other.
        name: What the examples are called.
        among: How many either company are.
        how: What was made of them in the other.

    Raises:
        ValueError: With the example whose losses differ most.
    """
    if not close(losses, again):
        worst = int((losses - again).abs().argmax())
        raise ValueError(
            f"{name}: the loss of an example depends on the other examples of its batch{how}: "
            f"{float(losses[worst]):.6g} among {among[0]}, {float(again[worst]):.6g} among {among[1]}. {_CAUSES}"
        )
