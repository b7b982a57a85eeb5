"""Which moments a Bayesian network is trained under when nothing is said: such as agree with its sampled weights.

What is taken for which network is measured by `benchmarks/moment_structures.py`, see docs/moments.md.
"""

from __future__ import annotations

from torch import nn

from bayes_influence.moments.convolution import BayesianConv, BayesianTransposedConv
from bayes_influence.moments.supported import CONVERTED
from bayes_influence.moments.unfolded import UNFOLDED

CONVOLUTIONS = tuple(kind for kind, twin in CONVERTED.items() if twin in (BayesianConv, BayesianTransposedConv))
"""Layers that share their weights over positions, whose outputs therefore vary together."""

OF_TOKENS = (*UNFOLDED, nn.Embedding, nn.LayerNorm, nn.RMSNorm)
"""Modules that say that linear layers are called token by token, each of which would have columns of its own."""

MOST_COLUMNS = 2**18
"""Numbers in the columns of one example up to which covariances are followed: LeNet has 10 080, hidden layers of 4096
units (VGG) 19 million."""


def usual_moments(network: nn.Module) -> dict[str, str]:
    """The scheme options `method` and `structure` of a network when nothing is said; none, where they are the scheme's.

    They are others of networks with convolutions: under first-order, diagonal moments the logits of these have a fifth
    to a half of their variance, their means are off by some tenths of a standard deviation, and training settles on
    posteriors that predict another thing when they are sampled. So their method is exact, also where that costs: an
    epoch of a LeNet on some thousand images takes 2.4 times as long with ReLUs, and 6.4 times with tanh. Their
    structure has variance factors, and follows the covariance of fully connected layers where these are not too wide
    and not called token by token.

    Args:
        network: The deterministic network; of its modules the kinds and sizes matter alone.
    """
    kinds = {type(module) for module in network.modules()}
    if kinds.isdisjoint(CONVOLUTIONS):
        return {}
    narrow = kinds.isdisjoint(OF_TOKENS) and _largest_columns(network) <= MOST_COLUMNS
    return {"method": "exact", "structure": "calibrated-covariance" if narrow else "calibrated"}


def _largest_columns(network: nn.Module) -> int:
    """Entries of the largest columns of one example, if fully connected layers follow each other as they are listed."""
    largest = rank = 0
    for module in network.modules():
        if type(module) is nn.Linear:
            rank += module.in_features
            largest = max(largest, module.out_features * rank)
    return largest
