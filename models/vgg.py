"""The VGG family: blocks of 3x3 convolutions, each ended by max pooling, then fully connected layers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import nn

from bayes_influence.models.activations import activation_module
from bayes_influence.models.initialisation import seeded
from bayes_influence.models.sequential import ShapedSequential

CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Convolutions in each of the five blocks, by the member of the family."""

CHANNELS = (64, 128, 256, 512, 512)
"""Channels of each block's convolutions at full width."""

HIDDEN = (4096, 4096, 1000)
"""Units of the hidden fully connected layers at full width."""

SHRINKAGE = 2 ** len(CHANNELS)
"""How many times smaller the pooling of all blocks makes each side of an image."""


class VGG(ShapedSequential):
    """VGG11, VGG13, VGG16 or VGG19 (Simonyan & Zisserman 2015) with hidden layers of 4096, 4096 and 1000 units.

    Five blocks of 3x3 convolutions that keep the size of the image, each followed by max pooling over 2x2; then the
    hidden layers, dropout, and the outputs. Images whose sides are not multiples of 32 are padded with zeros to the
    next one, by the first convolution.

    Weights before a ReLU start with mean 0 and variance 2 / fan-in (He et al. 2015), biases at 0: the square of what
    passes through keeps its mean. PyTorch's own variance, 1 / (3 fan-in), divides it by six in every layer, and VGG13
    predicts no better than chance after sixty steps. Other activations keep PyTorch's.

    Args:
        depth: 11, 13, 16 or 19.
        n_outputs: Number of outputs.
        input_shape: (channels, height, width) of one image; both sides even.
        width: Scale of every number of channels and hidden units; 1 is the published network.
        dropout: Probability with which units before the last layer are dropped in training mode.
        activation: A key of `ACTIVATIONS`.
        seed: As in `MLP`.

    Raises:
        ValueError: If an argument is out of range or the activation is unknown.
    """

    def __init__(
        self,
        depth: int = 13,
        n_outputs: int = 10,
        input_shape: Sequence[int] = (3, 32, 32),
        width: float = 1.0,
        dropout: float = 0.5,
        activation: str = "relu",
        seed: int | None = None,
    ) -> None:
        if depth not in CONVOLUTIONS:
            raise ValueError(f"unknown VGG{depth}; known depths: {', '.join(map(str, CONVOLUTIONS))}")
        if not width > 0 or n_outputs < 1:
            raise ValueError(
                f"VGG needs a positive width and at least one output, got width={width} and n_outputs={n_outputs}"
            )
        padding = _padding(input_shape)
        with seeded(seed):
            modules = _blocks(depth, input_shape[0], padding, width, activation)
            modules.append(nn.Flatten())
            sides = [side + 2 * around for side, around in zip(input_shape[1:], padding, strict=True)]
            positions = prod(side // SHRINKAGE for side in sides)
            hidden = [positions * _scaled(CHANNELS[-1], width), *(_scaled(units, width) for units in HIDDEN)]
            for before, after in pairwise(hidden):
                modules += [nn.Linear(before, after), activation_module(activation)]
            if activation == "relu":
                _start(modules)
            modules += [nn.Dropout(dropout), nn.Linear(hidden[-1], n_outputs)]
        super().__init__(input_shape, modules)


def _start(modules: list[nn.Module]) -> None:
    """The initialisation of He et al., of every layer among these."""
    for layer in modules:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.get_parameter("bias"))


def _blocks(depth: int, channels: int, padding: tuple[int, int], width: float, activation: str) -> list[nn.Module]:
    modules: list[nn.Module] = []
    for count, full_width in zip(CONVOLUTIONS[depth], CHANNELS, strict=True):
        for _ in range(count):
            around = (1, 1) if modules else (1 + padding[0], 1 + padding[1])
            modules += [nn.Conv2d(channels, _scaled(full_width, width), 3, padding=around)]
            modules += [activation_module(activation)]
            channels = _scaled(full_width, width)
        modules.append(nn.MaxPool2d(2))
    return modules


def _scaled(size: int, width: float) -> int:
    return max(1, round(size * width))


def _padding(input_shape: Sequence[int]) -> tuple[int, int]:
    """Zeros above and below, and left and right, that make the sides multiples of `SHRINKAGE`."""
    if len(input_shape) != 3 or min(input_shape) < 1:
        raise ValueError(f"input_shape must be (channels, height, width), got {tuple(input_shape)}")
    missing = [-side % SHRINKAGE for side in input_shape[1:]]
    if any(count % 2 for count in missing):
        raise ValueError(
            f"height and width must be even, so that padding them to multiples of {SHRINKAGE} is symmetric, "
            f"got {tuple(input_shape[1:])}"
        )
    return missing[0] // 2, missing[1] // 2
