"""What an adapter hands back, in one convention whatever its library's own is."""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Outcome:
    """Scores of one library on one problem.

    Attributes:
        raw: What the library returned, in its own convention.
        removal: (t, n) predicted change of every test loss when an example is removed, +1/n g_t' (C + delta I)^-1 g_i.
        solved: (t, P) the library's (C + delta I)^-1 g_t, where it shows it.
        notes: What else it said: iterations, residuals.
    """

    raw: Float[Tensor, "rows columns"]
    removal: Float[Tensor, "t n"]
    solved: Float[Tensor, "t P"] | None = None
    notes: dict[str, float] = field(default_factory=dict)
