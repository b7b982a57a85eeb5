"""Multilayer perceptron: linear layers with one elementwise activation between them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import nn

from bayes_influence.arguments import check_whole
from bayes_influence.models.activations import activation_module
from bayes_influence.models.initialisation import seeded
from bayes_influence.models.sequential import ShapedSequential


class MLP(ShapedSequential):
    """Linear(n_inputs, width)-activation-[Linear(width, width)-activation]x(depth-1)-Linear(width, n_outputs).

    All layers have biases and PyTorch's default initialisation. The modules stand in one flat sequence, so with
    vector inputs the linear layers are named 0, 2, 4, ... (1, 3, 5, ... behind the flattening of shaped inputs).

    Args:
        n_inputs: Length of the input vectors, or the shape of one input, which is then flattened first.
        n_outputs: Number of outputs: classes, or regression targets.
        width: Units in each hidden layer.
        depth: Number of hidden layers; 0 is a linear model (with cross-entropy, multinomial logistic regression).
        activation: A key of `ACTIVATIONS`.
        seed: Draws the parameters that follow `torch.manual_seed(seed)` and leaves the global generator alone;
            None draws from the global generator.

    Raises:
        TypeError: If a size is no whole number.
        ValueError: If a size is out of range or the activation is unknown.
    """

    def __init__(
        self,
        n_inputs: int | Sequence[int],
        n_outputs: int,
        width: int = 5,
        depth: int = 1,
        activation: str = "selu",
        seed: int | None = None,
    ) -> None:
        shape = tuple(n_inputs) if isinstance(n_inputs, Sequence) and not isinstance(n_inputs, str) else (n_inputs,)
        _check_sizes(shape, n_outputs, width, depth)
        sizes = [prod(shape), *[width] * depth]
        modules: list[nn.Module] = [] if isinstance(n_inputs, int) else [nn.Flatten()]
        with seeded(seed):
            for before, after in pairwise(sizes):
                modules += [nn.Linear(before, after), activation_module(activation)]
            modules.append(nn.Linear(sizes[-1], n_outputs))
        super().__init__(shape, modules)


def _check_sizes(shape: tuple[int, ...], n_outputs: int, width: int, depth: int) -> None:
    for size in shape:
        check_whole(n_inputs=size)
    check_whole(n_outputs=n_outputs, width=width, depth=depth)
    if not shape or min(shape) < 1 or n_outputs < 1 or width < 1 or depth < 0:
        raise ValueError(
            f"an MLP needs inputs, outputs and a width of at least 1 and a depth of at least 0, "
            f"got inputs {shape}, n_outputs={n_outputs}, width={width}, depth={depth}"
        )
