"""Several networks of one architecture as one network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class NetworkEnsemble(nn.Module):
    """K networks that see the same inputs, their outputs side by side: (B, K, *out).

    Attributes:
        members: The networks.

    Raises:
        ValueError: If there are fewer than two.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        if len(members) < 2:
            raise ValueError(f"an ensemble needs at least 2 networks, got {len(members)}")
        self.members = nn.ModuleList(members)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Every network's outputs, (B, K, *out)."""
        return torch.stack([member(*args, **kwargs) for member in self.members], dim=1)

    def counterparts(self, path: str) -> list[str]:
        """The same layer in every member.

        Args:
            path: Of a layer of one of them.
        """
        holder, _, inside = path.partition(".")
        _, _, own = inside.partition(".")
        return [f"{holder}.{index}.{own}".rstrip(".") for index in range(len(self.members))]
