"""A GPT and a ViT of a few hundred parameters, called as those of Transformers are, without that package."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

VOCABULARY, LENGTH, WIDTH = 7, 5, 4


class Cache:
    """What is no tensor in a record, as past keys and values are not."""


@dataclass
class Record:
    """What Transformers' models return."""

    logits: torch.Tensor
    past: Cache


class Conv1D(nn.Module):
    """GPT-2's linear layer: its weight is (inputs, outputs), and it is applied to rows of positions."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(inputs, outputs)), nn.Parameter(torch.zeros(outputs))
        nn.init.normal_(self.weight, std=0.4)
        nn.init.normal_(self.bias, std=0.1)

    def forward(self, x):
        rows = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)
        return rows.view(*x.shape[:-1], -1)


class Block(nn.Module):
    """Attention by torch's fused kernel, and two layers."""

    def __init__(self, layer, causal):
        super().__init__()
        self.causal = causal
        self.norm, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention, self.projection = layer(WIDTH, 3 * WIDTH), layer(WIDTH, WIDTH)
        self.up, self.down = layer(WIDTH, 6), layer(6, WIDTH)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x, mask=None):
        parts = self.attention(self.norm(x)).unflatten(-1, (3, 2, WIDTH // 2)).movedim(2, 0).transpose(2, 3)
        causal = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril() if self.causal else None
        if mask is not None:
            causal = causal & mask[:, None, None, :].bool()
        heads = functional.scaled_dot_product_attention(*parts, attn_mask=causal)
        x = x + self.dropout(self.projection(heads.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.down(functional.gelu(self.up(self.norm2(x)))))


class TinyGPT(nn.Module):
    """Keyword inputs, a record of logits and a cache; embedding and head may be tied."""

    def __init__(self, layer=Conv1D, tied=False, vocabulary=VOCABULARY):
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.block, self.norm = Block(layer, causal=True), nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, vocabulary, bias=False)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, input_ids=None, attention_mask=None):
        places = torch.arange(input_ids.shape[1])
        x = self.tokens(input_ids) + self.places(places)
        return Record(self.head(self.norm(self.block(x, attention_mask))), Cache())


class TinyViT(nn.Module):
    """Patches by a convolution, a class token, and a head on it."""

    def __init__(self, classes=3):
        super().__init__()
        self.patches = nn.Conv2d(1, WIDTH, 2, stride=2)
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.block, self.norm = Block(nn.Linear, causal=False), nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, pixel_values):
        patches = self.patches(pixel_values).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(patches), -1, -1), patches], dim=1)
        return Record(self.head(self.norm(self.block(x))[:, 0]), Cache())
