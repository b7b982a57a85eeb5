"""What linear and convolutional layers receive and return in one forward pass, without touching their modules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from bayes_influence.objectives.layers import is_layer, is_transposed
from bayes_influence.objectives.objective import Objective

CONVOLUTIONS = (functional.conv1d, functional.conv2d, functional.conv3d)
"""What the convolutions call."""


@dataclass(frozen=True)
class KroneckerLayer:
    """A layer with selected parameters.

    Attributes:
        path: Where its module stands in the network.
        weight: Name of the weight, None if it is not selected.
        bias: Name of the bias, None if it has none or it is not selected.
        transposed: Whether its weight is (D, O), as in GPT-2's Conv1D, and not (O, D).
    """

    path: str
    weight: str | None
    bias: str | None
    transposed: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The selected ones of the two."""
        return tuple(name for name in (self.weight, self.bias) if name is not None)

    def joined(self, tensors: Mapping[str, Tensor], leading: int = 0) -> Shaped[Tensor, "*lead O D"]:
        """[weight, bias] as one matrix, an output in a row.

        Args:
            tensors: Shaped as the parameters, by name.
            leading: Axes before theirs.
        """
        parts = []
        if self.weight is not None:
            weight = tensors[self.weight]
            parts.append(weight.mT if self.transposed else weight.flatten(leading + 1))
        if self.bias is not None:
            parts.append(tensors[self.bias].unsqueeze(-1))
        return torch.cat(parts, dim=-1)

    def apart(self, matrix: Float[Tensor, "O D"], shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
        """The inverse of `joined`: views of [weight, bias], shaped as the parameters.

        Args:
            matrix: An output in a row.
            shapes: Of the parameters, by name.
        """
        parts = {}
        if self.weight is not None:
            weight = matrix if self.bias is None else matrix[:, :-1]
            parts[self.weight] = weight.mT if self.transposed else weight.reshape(shapes[self.weight])
        if self.bias is not None:
            parts[self.bias] = matrix[:, -1]
        return parts


@dataclass
class LayerRecord:
    """One layer's calls in a forward pass over R rows (examples, or their positions), L positions each (1 if linear).

    Attributes:
        inputs: (R, L, D) for each call: what the parameters are multiplied with, a constant 1 for the bias.
        outputs: The tensor that each call returned, to be differentiated with respect to.
        channels_first: Whether its outputs stand on the second axis, as a convolution's, or on the last.
    """

    inputs: list[Float[Tensor, "R L D"]] = field(default_factory=list)
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
        if role in ("weight", "bias") and is_layer(module):
            found.setdefault(path, {})[role] = name
        else:
            unsupported.append(name)
    layers = tuple(
        KroneckerLayer(path, roles.get("weight"), roles.get("bias"), is_transposed(modules[path]))
        for path, roles in found.items()
    )
    return layers, tuple(unsupported)


class RecordLayers(TorchFunctionMode):
    """While active, notes what the given layers receive and return.

    A layer is known by the weight tensor that it is called with, so functional calls are seen as well and no hook is
    left in any module. In such a call weight and bias are constants, and what it returns is differentiated with respect
    to instead: a gradient that they still have is of another use.

    Attributes:
        records: One for each layer's path.

    Raises:
        ValueError: If a layer's weight goes by the name of another layer.
    """

    def __init__(self, layers: Iterable[KroneckerLayer], params: Mapping[str, Tensor]) -> None:
        super().__init__()
        weights = {layer: params.get(f"{layer.path}.weight".lstrip(".")) for layer in layers}
        if tied := [layer.path for layer, weight in weights.items() if weight is None]:
            raise ValueError(f"the weight of {tied[0]!r} is another layer's, too, so that neither has a gradient alone")
        self._layers = {id(weight): layer for layer, weight in weights.items()}
        self._params = params
        self.records = {layer.path: LayerRecord() for layer in self._layers.values()}

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Runs the function, and records it if it is a recorded layer's."""
        kwargs = kwargs or {}
        layer = self._called(func, args, kwargs)
        if layer is None:
            return func(*args, **kwargs)
        own = [value for name in layer.names if (value := self._params.get(name)) is not None]
        held = {id(value): value.detach() for value in own}
        args = tuple(held.get(id(value), value) for value in args)
        kwargs = {name: held.get(id(value), value) for name, value in kwargs.items()}
        result = func(*args, **kwargs)
        if torch.is_grad_enabled() and not result.requires_grad:
            result.requires_grad_()
        record = self.records[layer.path]
        record.inputs.append(_factor_inputs(func, layer, args, kwargs))
        record.outputs.append(result)
        record.channels_first = func in CONVOLUTIONS
        # What follows may write into its argument, and the record must keep the layer's own result.
        return result.clone()

    def _called(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> KroneckerLayer | None:
        """Whose call it is, its selected parameters where they belong; what is called otherwise is another use."""
        if not (func is functional.linear or func is torch.addmm or func in CONVOLUTIONS):
            return None
        layer = self._layers.get(id(_argument(func, "weight", args, kwargs)))
        scaled = any(kwargs.get(name, 1) != 1 for name in ("alpha", "beta"))
        if layer is None or scaled:
            return None
        bias = _argument(func, "bias", args, kwargs)
        return layer if layer.bias is None or bias is self._params[layer.bias] else None


def _argument(
    func: Any, role: Literal["received", "weight", "bias"], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """What a layer's function is applied to, its weight or its bias: addmm takes (bias, received, weight)."""
    roles = ("bias", "received", "weight") if func is torch.addmm else ("received", "weight", "bias")
    names = ("input", "mat1", "mat2") if func is torch.addmm else ("input", "weight", "bias")
    place = roles.index(role)
    return args[place] if place < len(args) else kwargs.get(names[place])


def _factor_inputs(func: Any, layer: KroneckerLayer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    received = _argument(func, "received", args, kwargs).detach()
    if func in CONVOLUTIONS:
        options = {name: value for name, value in kwargs.items() if name != "input"}
        received = _patches(received, *args[1:], **options)
    patches = received.reshape(len(received), -1, received.shape[-1])
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
    steps, spreads = _per_axis(stride, len(kernel)), _per_axis(dilation, len(kernel))
    if isinstance(padding, str):
        totals = [spread * (size - 1) * (padding == "same") for spread, size in zip(spreads, kernel, strict=True)]
        margins = [(total // 2, total - total // 2) for total in totals]
    else:
        margins = [(margin, margin) for margin in _per_axis(padding, len(kernel))]
    # functional.pad begins with the last axis.
    fields = functional.pad(received, [margin for pair in reversed(margins) for margin in pair])
    for axis, (size, step, spread) in enumerate(zip(kernel, steps, spreads, strict=True), start=2):
        fields = fields.unfold(axis, spread * (size - 1) + 1, step)[..., ::spread]
    return fields.movedim(1, 1 + len(kernel)).flatten(1 + len(kernel)).flatten(1, len(kernel))


def _per_axis(value: Any, axes: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * axes if len(values) == 1 else values
