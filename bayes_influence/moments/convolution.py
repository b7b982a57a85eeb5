"""Bayesian convolutions in one, two and three dimensions, and transposed ones."""

from __future__ import annotations

from math import prod
from typing import Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from bayes_influence.moments.initial import InitialSigma
from bayes_influence.moments.layers import BayesianLayer
from bayes_influence.moments.linear_maps import Convolution, LinearMap, TransposedConvolution
from bayes_influence.moments.moments import Approximation, Moments


class BayesianConv(BayesianLayer):
    """`nn.Conv1d`, `nn.Conv2d` or `nn.Conv3d` with Gaussian weights and biases.

    Stride, padding (with its modes), dilation and groups are the deterministic layer's. The output positions share
    their weights, so they are correlated; each position's mean and variance are exact for a fixed input.
    """

    options: ClassVar[tuple[str, ...]] = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    """What the deterministic layer is made with beside its channels."""

    def __init__(
        self,
        layer: Any,
        approximation: Approximation,
        initial_sigma: InitialSigma,
        path: str = "",
    ) -> None:
        super().__init__(layer, approximation, initial_sigma, path)
        self.kind = type(layer)
        self.geometry: dict[str, Any] = {name: getattr(layer, name) for name in self.options}
        self.in_channels = layer.in_channels
        self.out_channels = layer.out_channels

    @property
    def spatial(self) -> int:
        """Number of spatial dimensions."""
        return len(self.geometry["kernel_size"])

    @property
    def channel_axis(self) -> int:
        """That before the spatial ones."""
        return -self.spatial - 1

    @property
    def linear_map(self) -> LinearMap:
        """The convolution; what `prepared` has padded is not padded again."""
        padding = (0,) * self.spatial if self._pads_itself else tuple(self.geometry["padding"])
        return Convolution(self.geometry["stride"], padding, self.geometry["dilation"], self.geometry["groups"])

    @property
    def _pads_itself(self) -> bool:
        return self.geometry["padding_mode"] != "zeros" or isinstance(self.geometry["padding"], str)

    def prepared(self, x: Tensor | Moments) -> Tensor | Moments:
        """The input with its border, where the layer pads with copies or by name ("same")."""
        if not self._pads_itself:
            return x
        copies = self.geometry["padding_mode"]
        return F.pad(x, self._border(), mode="constant" if copies == "zeros" else copies)  # type: ignore[arg-type]

    def _border(self) -> list[int]:
        """Widths of the border as `F.pad` takes them: the last dimension first, before and after."""
        widths: list[int] = []
        for dim in reversed(range(self.spatial)):
            total = self.geometry["dilation"][dim] * (self.geometry["kernel_size"][dim] - 1)
            padding = self.geometry["padding"]
            same, valid = padding == "same", padding == "valid"
            widths += [total // 2, total - total // 2] if same else [0, 0] if valid else [padding[dim]] * 2
        return widths

    def check_input(self, shape: torch.Size) -> None:
        """Wants (batch, in_channels, *spatial), or one example without its batch axis."""
        if len(shape) not in (self.spatial + 1, self.spatial + 2) or shape[-self.spatial - 1] != self.in_channels:
            sizes = ", ".join(["batch", str(self.in_channels), *("depth", "height", "width")[-self.spatial :]])
            raise self._wrong_shape(f"of shape ({sizes})", shape)

    def deterministic(self) -> nn.Module:
        """The convolution of the same kind with the means."""
        layer = self.kind(
            self.in_channels, self.out_channels, **self.geometry, bias=self.bias is not None, device="meta"
        )
        return self._with_means(layer)

    def extra_repr(self) -> str:
        """Sizes, geometry and approximation, as they are printed."""
        geometry = ", ".join(f"{name}={value}" for name, value in self.geometry.items())
        return f"{self.in_channels}, {self.out_channels}, {geometry}, {self.approximation}"


class BayesianTransposedConv(BayesianConv):
    """`nn.ConvTranspose1d`, `nn.ConvTranspose2d` or `nn.ConvTranspose3d` with Gaussian weights and biases.

    Output positions share their weights as a convolution's do. An `output_size` cannot be asked for in a call.
    """

    options: ClassVar[tuple[str, ...]] = (*BayesianConv.options, "output_padding")

    @staticmethod
    def fan_in_of(layer: Any) -> float:
        """Its weight is of every input's outputs: an output has one in so many of them as the stride says."""
        return layer.in_channels / layer.groups * prod(layer.kernel_size) / prod(layer.stride)

    @staticmethod
    def n_channels(layer: Any) -> int:
        """Channels of the deterministic layer's output: its weight has those of the input first."""
        return layer.out_channels

    @property
    def linear_map(self) -> LinearMap:
        """The transposed convolution."""
        names = ("stride", "padding", "dilation", "groups", "output_padding")
        return TransposedConvolution(*(self.geometry[name] for name in names))
