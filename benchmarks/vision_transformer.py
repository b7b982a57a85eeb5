"""A small vision transformer of torch's own layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from bayes_influence.models.initialisation import seeded


class VisionTransformer(nn.Module):
    """Patches of 2 x 2, a class token, places, encoder layers that normalise first, and a linear layer on the token.

    Dosovitskiy et al. 2021, for the digits of 8 x 8.

    Args:
        width: Features of a patch.
        layers: Encoder layers.
        heads: Of each layer's attention.
        seed: As in `MLP`.
    """

    def __init__(self, width: int = 32, layers: int = 2, heads: int = 4, seed: int | None = None) -> None:
        super().__init__()
        with seeded(seed):
            self.patches = nn.Conv2d(1, width, 2, stride=2)
            self.token = nn.Parameter(0.02 * torch.randn(1, 1, width))
            self.places = nn.Parameter(0.02 * torch.randn(1, 17, width))
            layer = nn.TransformerEncoderLayer(width, heads, 2 * width, 0.0, batch_first=True, norm_first=True)
            self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
            self.norm = nn.LayerNorm(width)
            self.head = nn.Linear(width, 10)

    def forward(self, input: Any) -> Any:
        """Logits, (B, 10), of digits (B, 64)."""
        patches = self.patches(input.unflatten(-1, (1, 8, 8))).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(input), -1, -1), patches], 1)
        return self.head(self.norm(self.encoder(tokens + self.places)[:, 0]))
