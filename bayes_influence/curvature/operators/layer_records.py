"""What linear and convolutional layers receive and return in one forward pass, without touching their modules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from bayes_influence.objectives.objective import Objective

LAYERS = (nn.Linear, nn.Conv2d)
"""Layers whose parameter gradients are sums of outer products (backpropagated) x (received)."""


@dataclass(frozen=True)
class KroneckerLayer:
    """A layer with selected parameters.

    Attributes:
        path: Where its module stands in the network.
        weight: Name of the weight, None if it is not selected.
        bias: Name of the bias, None if it has none or it is not selected.
    """

    path: str
    weight: str | None
    bias: str | None

    @property
    def names(self) -> tuple[str, ...]:
        """The selected ones of the two."""
        return tuple(name for name in (self.weight, self.bias) if name is not None)


@dataclass
class LayerRecord:
    """One layer's calls in a forward pass over B examples, L positions each (1 for a plain linear layer).

    Attributes:
        inputs: (B, L, D) for each call: what the parameters are multiplied with, a constant 1 for the bias.
        outputs: The tensor that each call returned, to be differentiated with respect to.
        channels_first: Whether its outputs stand on the second axis, as a convolution's, or on the last.
    """

    inputs: list[Float[Tensor, "B L D"]] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    channels_first: bool = False


def kronecker_layers(objective: Objective) -> tuple[tuple[KroneckerLayer, ...], tuple[str, ...]]:
    """The layers with selected parameters that can be taken apart, and the selected parameters that cannot."""
    modules = dict(objective.network.named_modules())
    found: dict[str, dict[str, str]] = {}
    unsupported = []
    for name in objective.names:
        path, _, role = name.rpartition(".")
        module = modules[path]
        if type(module) in LAYERS and role in ("weight", "bias") and getattr(module, "groups", 1) == 1:
            found.setdefault(path, {})[role] = name
        else:
            unsupported.append(name)
    layers = tuple(KroneckerLayer(path, roles.get("weight"), roles.get("bias")) for path, roles in found.items())
    return layers, tuple(unsupported)


class RecordLayers(TorchFunctionMode):
    """While active, notes what the given layers receive and return.

    A layer is known by the weight tensor that it is called with, so functional calls are seen as well and no hook is
    left in any module.

    Attributes:
        records: One for each layer's path.
    """

    def __init__(self, layers: Iterable[KroneckerLayer], params: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._layers = {id(params[f"{layer.path}.weight".lstrip(".")]): layer for layer in layers}
        self.records = {layer.path: LayerRecord() for layer in self._layers.values()}

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Runs the function, and records it if it is a recorded layer's."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func in (functional.linear, functional.conv2d):
            layer = self._layers.get(id(kwargs["weight"] if "weight" in kwargs else args[1]))
            if layer is not None:
                record = self.records[layer.path]
                record.inputs.append(_factor_inputs(func, layer, args, kwargs))
                record.outputs.append(result)
                record.channels_first = func is functional.conv2d
                # What follows may write into its argument, and the record must keep the layer's own result.
                return result.clone()
        return result


def _factor_inputs(func: Any, layer: KroneckerLayer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    received = (kwargs["input"] if "input" in kwargs else args[0]).detach()
    patches = received if func is functional.linear else _patches(received, *args[1:], **kwargs)
    patches = patches.reshape(len(patches), -1, patches.shape[-1])
    ones = patches.new_ones(*patches.shape[:2], 1)
    parts = [part for part, name in ((patches, layer.weight), (ones, layer.bias)) if name is not None]
    return torch.cat(parts, dim=-1)


def _patches(
    received: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Float[Tensor, "B L D"]:
    """The receptive field of every output position, laid out as the weight."""
    kernel = weight.shape[2:]
    spread = (dilation, dilation) if isinstance(dilation, int) else tuple(dilation)
    if padding == "same":
        totals = [step * (size - 1) for step, size in zip(spread, kernel, strict=True)]
        (top, left), (height, width) = [total // 2 for total in totals], totals
        received = functional.pad(received, (left, width - left, top, height - top))
    margin = 0 if isinstance(padding, str) else padding
    return functional.unfold(received, tuple(kernel), spread, margin, stride).transpose(1, 2)
