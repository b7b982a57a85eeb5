"""Python's operators, each handed to the torch function that a tensor would call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Operators:
    """Operators of a type that has `__torch_function__`: `x + y` is `torch.add(x, y)`, `x += y` is `x.add_(y)`.

    Comparisons are among them, so that `x != 0` is decided by a rule and not by the identity of objects.
    """

    __slots__ = ()
    __hash__ = object.__hash__

    @classmethod
    def _operate(cls, function: Callable[..., Any], *args: Any) -> Any:
        return cls.__torch_function__(function, (cls,), args)  # type: ignore[attr-defined]

    def __add__(self, other: Any) -> Any:
        return self._operate(torch.add, self, other)

    def __radd__(self, other: Any) -> Any:
        return self._operate(torch.add, other, self)

    def __iadd__(self, other: Any) -> Any:
        return self._operate(Tensor.add_, self, other)

    def __sub__(self, other: Any) -> Any:
        return self._operate(torch.sub, self, other)

    def __rsub__(self, other: Any) -> Any:
        return self._operate(torch.sub, other, self)

    def __isub__(self, other: Any) -> Any:
        return self._operate(Tensor.sub_, self, other)

    def __mul__(self, other: Any) -> Any:
        return self._operate(torch.mul, self, other)

    def __rmul__(self, other: Any) -> Any:
        return self._operate(torch.mul, other, self)

    def __imul__(self, other: Any) -> Any:
        return self._operate(Tensor.mul_, self, other)

    def __truediv__(self, other: Any) -> Any:
        return self._operate(torch.div, self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self._operate(torch.div, other, self)

    def __itruediv__(self, other: Any) -> Any:
        return self._operate(Tensor.div_, self, other)

    def __floordiv__(self, other: Any) -> Any:
        return self._operate(torch.floor_divide, self, other)

    def __mod__(self, other: Any) -> Any:
        return self._operate(torch.remainder, self, other)

    def __pow__(self, exponent: Any) -> Any:
        return self._operate(torch.pow, self, exponent)

    def __rpow__(self, base: Any) -> Any:
        return self._operate(torch.pow, base, self)

    def __ipow__(self, exponent: Any) -> Any:
        return self._operate(Tensor.pow_, self, exponent)

    def __neg__(self) -> Any:
        return self._operate(torch.neg, self)

    def __abs__(self) -> Any:
        return self._operate(torch.abs, self)

    def __matmul__(self, other: Any) -> Any:
        return self._operate(torch.matmul, self, other)

    def __rmatmul__(self, other: Any) -> Any:
        return self._operate(torch.matmul, other, self)

    def __eq__(self, other: Any) -> Any:
        return NotImplemented if other is None else self._operate(torch.eq, self, other)

    def __ne__(self, other: Any) -> Any:
        return NotImplemented if other is None else self._operate(torch.ne, self, other)

    def __lt__(self, other: Any) -> Any:
        return self._operate(torch.lt, self, other)

    def __le__(self, other: Any) -> Any:
        return self._operate(torch.le, self, other)

    def __gt__(self, other: Any) -> Any:
        return self._operate(torch.gt, self, other)

    def __ge__(self, other: Any) -> Any:
        return self._operate(torch.ge, self, other)

    def __bool__(self) -> Any:
        return self._operate(Tensor.__bool__, self)

    def __float__(self) -> Any:
        return self._operate(Tensor.__float__, self)

    def __int__(self) -> Any:
        return self._operate(Tensor.__int__, self)

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self._operate(Tensor.__array__, self)

    def __getitem__(self, index: Any) -> Any:
        return self._operate(Tensor.__getitem__, self, index)

    def __setitem__(self, index: Any, value: Any) -> None:
        self._operate(Tensor.__setitem__, self, index, value)

    @property
    def is_nested(self) -> bool:
        """False: torch's encoder asks its input for it."""
        return False
