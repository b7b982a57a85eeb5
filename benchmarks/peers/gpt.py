"""A GPT on the text of Python's own help topics, trained for a moment: the problem of `speed gpt`."""

from __future__ import annotations

from pydoc_data.topics import topics

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from bayes_influence.objectives.next_token import NextToken
from benchmarks.peers.problem import Problem

HEADS = 4
"""Of every attention."""


class Block(nn.Module):
    """Attention to what came before, and a layer of four times the width, each beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before_attention, self.before_layers = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mixed, self.joined = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
        """GPT-2's block."""
        parts = self.mixed(self.before_attention(x)).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        attended = scaled_dot_product_attention(*parts, is_causal=True)
        x = x + self.joined(attended.transpose(1, 2).flatten(2))
        return x + self.narrow(nn.functional.gelu(self.wide(self.before_layers(x))))


class GPT(nn.Module):
    """Embeddings, blocks and a head of its own."""

    def __init__(self, letters: int, length: int, layers: int, width: int) -> None:
        super().__init__()
        self.letters, self.places = nn.Embedding(letters, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*[Block(width) for _ in range(layers)], nn.LayerNorm(width))
        self.head = nn.Linear(width, letters, bias=False)

    def forward(self, codes: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """Logits of the letters after each."""
        places = torch.arange(codes.shape[1], device=codes.device)
        return self.head(self.blocks(self.letters(codes) + self.places(places)))


def gpt_problem(
    sequences: int,
    tests: int,
    *,
    length: int = 64,
    layers: int = 6,
    width: int = 128,
    damping: float = 1e-3,
    steps: int = 200,
    batch_size: int = 50,
    dtype: torch.dtype = torch.float64,
) -> Problem:
    """Influence of sequences of letters in all linear layers; trained by Adam in float32, from a fixed seed."""
    text = "\n".join(topics[name] for name in sorted(topics))
    letters = sorted(set(text))
    codes = torch.tensor([letters.index(letter) for letter in text[: (sequences + tests) * (length + 1)]])
    rows = codes.view(sequences + tests, length + 1)
    torch.manual_seed(0)
    network = GPT(len(letters), length, layers, width)
    loss = NextToken(shift=False)
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(steps):
        chosen = rows[torch.randint(sequences, (16,))]
        optimiser.zero_grad()
        loss(network(chosen[:, :-1]), chosen[:, 1:]).mean().div(length).backward()
        optimiser.step()
    for module in network.modules():
        if not isinstance(module, nn.Linear):
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
    train, test = rows[:sequences], rows[sequences:]
    return Problem(
        network.to(dtype).eval(),
        train[:, :-1],
        train[:, 1:],
        test[:, :-1],
        test[:, 1:],
        damping,
        batch_size=batch_size,
        likelihood=loss,
    )
