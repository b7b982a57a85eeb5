"""Small residual networks for small images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from bayes_influence.models.activations import activation_module
from bayes_influence.models.initialisation import seeded
from bayes_influence.models.sequential import ShapedSequential

STAGES = 3
"""Stages of a residual network for small images; each later one halves the sides and doubles the channels."""


class ResidualBlock(nn.Module):
    """activation(shortcut(x) + branch(x)) with a branch of two 3x3 convolutions.

    The shortcut is the identity, or a 1x1 convolution where the shape changes.

    Args:
        n_inputs: Channels of x.
        n_outputs: Channels of the result.
        stride: Of the first convolution and of the shortcut.
        activation: A key of `ACTIVATIONS`.
        batch_norm: Whether each convolution is followed by batch normalisation.
    """

    def __init__(self, n_inputs: int, n_outputs: int, stride: int, activation: str, batch_norm: bool) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *_convolution(n_inputs, n_outputs, 3, stride, batch_norm),
            activation_module(activation),
            *_convolution(n_outputs, n_outputs, 3, 1, batch_norm),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or n_inputs != n_outputs:
            self.shortcut = nn.Sequential(*_convolution(n_inputs, n_outputs, 1, stride, batch_norm))
        self.activation = activation_module(activation)

    def forward(self, input: Any) -> Any:
        """The block's result, of shape (B, n_outputs, height / stride, width / stride)."""
        return self.activation(self.shortcut(input) + self.branch(input))


class ResNet(ShapedSequential):
    """A 3x3 convolution, three stages of residual blocks, global average pooling and one linear layer.

    He et al. 2016, section 4.2, with convolutions as the shortcuts between stages: 6 blocks_per_stage + 2 layers of
    weights, so `blocks_per_stage=3` is ResNet-20.

    Args:
        n_outputs: Number of outputs.
        input_shape: (channels, height, width) of one image; both sides at least 4.
        blocks_per_stage: Residual blocks in each stage.
        width: Channels of the first stage; the next ones have 2 and 4 times as many.
        activation: A key of `ACTIVATIONS`.
        batch_norm: Whether convolutions are followed by batch normalisation. In evaluation mode, in which objectives
            call a network, it is an affine map by the running statistics; in training mode it updates them in place,
            which function transforms refuse.
        seed: As in `MLP`.

    Raises:
        ValueError: If a size is out of range or the activation is unknown.
    """

    def __init__(
        self,
        n_outputs: int = 10,
        input_shape: Sequence[int] = (3, 32, 32),
        blocks_per_stage: int = 1,
        width: int = 16,
        activation: str = "relu",
        batch_norm: bool = False,
        seed: int | None = None,
    ) -> None:
        if len(input_shape) != 3 or min(input_shape[1:]) < 2 ** (STAGES - 1) or input_shape[0] < 1:
            raise ValueError(
                f"input_shape must be (channels, height, width) with sides of at least {2 ** (STAGES - 1)}, "
                f"got {tuple(input_shape)}"
            )
        if min(n_outputs, blocks_per_stage, width) < 1:
            raise ValueError(
                f"n_outputs, blocks_per_stage and width must be at least 1, "
                f"got {n_outputs}, {blocks_per_stage} and {width}"
            )
        with seeded(seed):
            modules = [*_convolution(input_shape[0], width, 3, 1, batch_norm), activation_module(activation)]
            channels = width
            for stage in range(STAGES):
                for block in range(blocks_per_stage):
                    stride = 2 if stage and not block else 1
                    modules.append(ResidualBlock(channels, width * 2**stage, stride, activation, batch_norm))
                    channels = width * 2**stage
            modules += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, n_outputs)]
        super().__init__(input_shape, modules)


def _convolution(n_inputs: int, n_outputs: int, size: int, stride: int, batch_norm: bool) -> list[nn.Module]:
    convolution = nn.Conv2d(n_inputs, n_outputs, size, stride, padding=size // 2, bias=not batch_norm)
    return [convolution, nn.BatchNorm2d(n_outputs)] if batch_norm else [convolution]
