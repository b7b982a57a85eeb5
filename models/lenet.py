"""LeNet-5 with full connections between its feature maps."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from bayes_influence.models.activations import activation_module
from bayes_influence.models.initialisation import seeded
from bayes_influence.models.sequential import ShapedSequential

SIDE = 32
"""Height and width on which three 5x5 convolutions and two halvings leave one position."""

SIDES = (28, SIDE)
"""Heights and widths of the square images that it takes."""


class LeNet(ShapedSequential):
    """Convolutions of 5x5 to 6, 16 and 120 channels, average pooling after the first two, then 84 units and the output.

    LeCun et al. 1998, with every feature map connected to every one of the next layer. Images of 28x28 are padded
    with zeros to 32x32, by the first convolution.

    Args:
        n_outputs: Number of outputs.
        input_shape: (channels, height, width) of one image; height and width 28 or 32.
        activation: A key of `ACTIVATIONS`.
        seed: As in `MLP`.

    Raises:
        ValueError: If the images have another size, or the activation is unknown.
    """

    def __init__(
        self,
        n_outputs: int = 10,
        input_shape: Sequence[int] = (1, 28, 28),
        activation: str = "tanh",
        seed: int | None = None,
    ) -> None:
        if tuple(input_shape[1:]) not in {(side, side) for side in SIDES} or n_outputs < 1:
            raise ValueError(
                f"LeNet takes images of shape (channels, 28, 28) or (channels, 32, 32) to at least one output, "
                f"got input_shape={tuple(input_shape)} and n_outputs={n_outputs}; resize or pad the images"
            )
        with seeded(seed):
            modules = [
                nn.Conv2d(input_shape[0], 6, 5, padding=(SIDE - input_shape[1]) // 2),
                activation_module(activation),
                nn.AvgPool2d(2),
                nn.Conv2d(6, 16, 5),
                activation_module(activation),
                nn.AvgPool2d(2),
                nn.Conv2d(16, 120, 5),
                activation_module(activation),
                nn.Flatten(),
                nn.Linear(120, 84),
                activation_module(activation),
                nn.Linear(84, n_outputs),
            ]
        super().__init__(input_shape, modules)
