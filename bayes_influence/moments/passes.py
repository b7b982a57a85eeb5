"""What a forward pass may not do with moments: use a layer's weights twice, or read them itself."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from bayes_influence.moments.operators import Operators
from bayes_influence.moments.registry import UnsupportedOperationError

_NUMBERS = count()
_CALL = nn.Module.__call__.__code__  # as it is outside of a trace, which calls it from a wrapper in its place
_OURS = ("bayes_influence", "torch", "beartype", "jaxtyping")


@dataclass(frozen=True)
class Calls:
    """Which calls of Bayesian layers an activation comes from.

    Moments treat every call as a draw of its own, so two calls of one layer count as independent although they share
    their weights. Branches that come from the *same* call (a skip connection) are the known approximation.

    Attributes:
        of: The number of the call, by the layer's path and the identity of its weights.
        repeated: A layer of which two calls have been put side by side, as by `torch.cat`; their own moments are right,
            and nothing may mix them.
    """

    of: Mapping[tuple[str, int], int] = field(default_factory=dict)
    repeated: str | None = None

    def through(self, path: str, weight: Tensor) -> Calls:
        """The calls behind the output of a layer, its input's and this one.

        Raises:
            UnsupportedOperationError: If the input comes from that layer already.
        """
        self.check_mixed()
        key = (path, id(weight))
        if key in self.of:
            raise called_twice(path)
        return Calls({**self.of, key: next(_NUMBERS)})

    def beside(self, other: Calls) -> Calls:
        """The calls behind two activations that stand side by side, no entry of one mixed with one of the other."""
        if self is other or not other.of:
            return self
        if not self.of:
            return other
        twice = [key[0] for key, number in other.of.items() if self.of.get(key, number) != number]
        return Calls({**self.of, **other.of}, self.repeated or other.repeated or (twice[0] if twice else None))

    def check_mixed(self) -> None:
        """Refuses to mix entries of which some come from two calls of one layer.

        Raises:
            UnsupportedOperationError: Naming the layer.
        """
        if self.repeated is not None:
            raise called_twice(self.repeated)


def called_twice(path: str) -> UnsupportedOperationError:
    """The error for a layer that one pass calls twice."""
    return UnsupportedOperationError(
        f"layer {path!r} is called twice, and what comes of the two calls meets: moments treat them as independent, "
        "though they share their weights. Give each call a layer of its own, or call the layer once, on the "
        "concatenated inputs"
    )


def module_in_call(frame: FrameType | None) -> nn.Module | None:
    """The innermost module whose call the frame is part of, None outside of a forward pass."""
    while frame is not None:
        if frame.f_code is _CALL:
            module: nn.Module = frame.f_locals["self"]
            return module
        frame = frame.f_back
    return None


def refuse_question_for_tensors(frame: FrameType) -> None:
    """Refuses `isinstance(x, Tensor)` in the forward pass of a network, which takes another branch for moments.

    Args:
        frame: Where the class of moments was asked for.

    Raises:
        UnsupportedOperationError: If that is in a network's own code, and the code names `Tensor`.
    """
    asking: FrameType | None = frame.f_back if frame.f_code is torch.is_tensor.__code__ else frame
    if asking is None or "Tensor" not in (*asking.f_code.co_names, *frame.f_code.co_names):
        return
    if str(asking.f_globals.get("__name__")).partition(".")[0] in _OURS or module_in_call(asking) is None:
        return
    raise UnsupportedOperationError(
        f"{asking.f_code.co_qualname} asks whether its value is a Tensor; in a Bayesian network it is Moments, and the "
        "other branch would be taken. Take the question out of the forward pass"
    )


class WeightInPass(Operators):
    """What a forward pass gets that reads a Bayesian layer's weight or bias itself: shape and type, and no entries.

    Used as a tensor, its variance would be dropped, and what it shares with the layer's own call.
    """

    __slots__ = ("_name", "device", "dtype", "shape")

    def __init__(self, name: str, parameter: Tensor) -> None:
        self._name = name
        self.device, self.dtype, self.shape = parameter.device, parameter.dtype, parameter.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def size(self, dim: int | None = None) -> torch.Size | int:
        """The shape, or the length of one axis."""
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def numel(self) -> int:
        """Number of entries."""
        return self.shape.numel()

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Refuses every use."""
        used = next((x for x in (*args, *(kwargs or {}).values()) if isinstance(x, WeightInPass)), None)
        raise _read_in_pass("a weight" if used is None else used._name)

    def __getattr__(self, name: str) -> Any:
        raise _read_in_pass(self._name)


def _read_in_pass(name: str) -> UnsupportedOperationError:
    return UnsupportedOperationError(
        f"{name} of a Bayesian layer is used by the forward pass itself, beside or instead of the layer's own call: "
        "its variance, and what the two uses share, would be lost. Call the layer, and give each use its own"
    )


def parameter_in_pass(layer: nn.Module, path: str, name: str, parameter: Tensor) -> Tensor | WeightInPass:
    """A layer's parameter for whoever reads it: the parameter, or a stand-in for the code of another module's call."""
    caller = module_in_call(sys._getframe(2))
    if caller is None or caller is layer:
        return parameter
    return WeightInPass(f"{path}.{name}" if path else name, parameter)
