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


def usual_moments(network: nn.Module, *, on_table: bool) -> dict[str, str]:
    """The scheme options `method` and `structure` of a network when nothing is said; none, where they are the scheme's.

    They are others of networks of images, and of all with convolutions. Under first-order, diagonal moments the logits
    of a convolutional network have a fifth to a half of their variance, means are off by some tenths of a standard
    deviation, and training settles on posteriors that predict another thing when they are sampled. So their method is
    exact, also where that costs: an epoch of a LeNet on some thousand images takes 2.4 times as long with ReLUs, and
    6.4 times with tanh; of an MLP it costs nothing. Their structure follows the covariance of fully connected layers
    where these are not too wide and not called token by token, and has variance factors where they are or where there
    are convolutions.

    Args:
        network: The deterministic network; of its modules the kinds and sizes matter alone.
        on_table: Whether inputs are rows of a table.
    """
    kinds = {type(module) for module in network.modules()}
    convolves = not kinds.isdisjoint(CONVOLUTIONS)
    if on_table and not convolves:
        return {}
    narrow = kinds.isdisjoint(OF_TOKENS) and _largest_columns(network, convolves) <= MOST_COLUMNS
    followed = "calibrated-covariance" if convolves else "covariance"
    return {"method": "exact", "structure": followed if narrow else "calibrated"}


def _largest_columns(network: nn.Module, convolves: bool) -> int:
    """Entries of the largest columns of one example, if fully connected layers follow each other as they are listed.

    Columns begin with the first layer whose inputs are random: behind convolutions, or the second one.
    """
    linear = [module for module in network.modules() if type(module) is nn.Linear]
    largest = rank = 0
    for layer in linear if convolves else linear[1:]:
        rank += layer.in_features
        largest = max(largest, layer.out_features * rank)
    return largest
