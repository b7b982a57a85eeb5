"""`Moments`: the expectation and the variance of an activation, in place of a tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.moments.registry import apply_rule
from bayes_influence.torch_internals import register_pytree_node

VARIANCE_FLOOR = 1e-12
"""Where a rule divides by a variance or takes its root, the variance is at least this: a standard deviation of 1e-6,
below float32's resolution of an activation of order one, and far enough above zero for finite derivatives."""

METHODS = ("first-order", "exact", "gauss-hermite")
MAX_POOLINGS = ("co-pooling", "clark")


@dataclass(frozen=True)
class Approximation:
    """How rules that have a choice approximate: static context that travels with the moments.

    Attributes:
        method: Elementwise activations. `"first-order"`: f(m) and f'(m)^2 v. `"exact"`: closed forms where they
            exist (for tanh and sigmoid those of a function within 3e-4 of them), Gauss-Hermite elsewhere.
            `"gauss-hermite"`: quadrature everywhere.
        max_pooling: `"co-pooling"`: mean and variance of the entry with the largest mean. `"clark"`: Clark's moments
            of the maximum, pair by pair, right for independent entries. In a trained convolutional network the
            entries of a window are far from independent, because they share their weights: there co-pooling is the
            closer one (a small LeNet on digits: .6 to .7 of the sampled variance against .4 to .5, and the lower
            -ELBO by weight sampling after training).

    Raises:
        ValueError: If one of them is unknown.
    """

    method: str = "first-order"
    max_pooling: str = "co-pooling"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"unknown method {self.method!r}; known: {', '.join(METHODS)}")
        if self.max_pooling not in MAX_POOLINGS:
            raise ValueError(f"unknown max_pooling {self.max_pooling!r}; known: {', '.join(MAX_POOLINGS)}")


@dataclass(frozen=True, eq=False, slots=True)
class Moments:
    """Elementwise expectation and variance of an activation whose entries are treated as independent.

    Not a tensor: torch functions, tensor methods and operators that receive `Moments` are dispatched to the rule
    registered for them, and one without a rule raises `UnsupportedOperationError`. A pytree with the leaves
    (expectation, variance), so `vmap`, `grad`, `jvp`, `make_fx` and `tree_map` take it apart and put it together, and a
    dataset may hold it as inputs.

    Attributes:
        expectation: m, any shape. Not called `mean`, for that is a method of tensors: `x.mean(dim)` averages entries.
        variance: v >= 0, the same shape.
        approximation: What rules with a choice use; the first Bayesian layer sets its own.

    Raises:
        TypeError: If a part is not a tensor.
        ValueError: If the shapes differ.
    """

    expectation: Tensor
    variance: Tensor
    approximation: Approximation = Approximation()

    def __post_init__(self) -> None:
        if not (isinstance(self.expectation, Tensor) and isinstance(self.variance, Tensor)):
            raise TypeError(
                f"Moments needs two tensors, got {type(self.expectation).__name__} and {type(self.variance).__name__}"
            )
        if self.expectation.shape != self.variance.shape:
            raise ValueError(
                f"expectation and variance must have one shape, got {tuple(self.expectation.shape)} and "
                f"{tuple(self.variance.shape)}"
            )

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Hands a torch function that received `Moments` to its rule."""
        return apply_rule(func, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        """Tensor methods, as rules: `x.flatten(1)` is `Tensor.flatten` carried over."""
        function = None if name.startswith("_") else getattr(Tensor, name, None)
        if not callable(function):
            raise AttributeError(f"Moments has no attribute {name!r}; its parts are .expectation and .variance")
        return partial(_apply, function, self)

    @property
    def standard_deviation(self) -> Float[Tensor, "*shape"]:
        """Root of the variance, floored at `VARIANCE_FLOOR` so that its derivative is finite."""
        return self.variance.clamp(min=VARIANCE_FLOOR).sqrt()

    @property
    def shape(self) -> torch.Size:
        """Shape of the expectation, and of the variance."""
        return self.expectation.shape

    @property
    def dtype(self) -> torch.dtype:
        """Type of the entries."""
        return self.expectation.dtype

    @property
    def device(self) -> torch.device:
        """Where the entries are."""
        return self.expectation.device

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.expectation.ndim

    def dim(self) -> int:
        """Number of axes."""
        return self.expectation.ndim

    def size(self, dim: int | None = None) -> torch.Size | int:
        """The shape, or the length of one axis."""
        return self.expectation.shape if dim is None else self.expectation.shape[dim]

    def numel(self) -> int:
        """Number of entries."""
        return self.expectation.numel()

    def is_floating_point(self) -> bool:
        """True: moments are of real numbers."""
        return self.expectation.is_floating_point()

    def __len__(self) -> int:
        return len(self.expectation)

    def __getitem__(self, index: Any) -> Moments:
        return Moments(self.expectation[index], self.variance[index], self.approximation)

    def __add__(self, other: Any) -> Moments:
        return _apply(torch.add, self, other)

    def __radd__(self, other: Any) -> Moments:
        return _apply(torch.add, other, self)

    def __sub__(self, other: Any) -> Moments:
        return _apply(torch.sub, self, other)

    def __rsub__(self, other: Any) -> Moments:
        return _apply(torch.sub, other, self)

    def __mul__(self, other: Any) -> Moments:
        return _apply(torch.mul, self, other)

    def __rmul__(self, other: Any) -> Moments:
        return _apply(torch.mul, other, self)

    def __truediv__(self, other: Any) -> Moments:
        return _apply(torch.div, self, other)

    def __rtruediv__(self, other: Any) -> Moments:
        return _apply(torch.div, other, self)

    def __pow__(self, exponent: Any) -> Moments:
        return _apply(torch.pow, self, exponent)

    def __neg__(self) -> Moments:
        return _apply(torch.neg, self)

    def __matmul__(self, other: Any) -> Moments:
        return _apply(torch.matmul, self, other)

    def __rmatmul__(self, other: Any) -> Moments:
        return _apply(torch.matmul, other, self)


def _apply(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return apply_rule(function, args, kwargs)


def _flatten(moments: Moments) -> tuple[list[Any], Approximation]:
    return [moments.expectation, moments.variance], moments.approximation


def _unflatten(leaves: Iterable[Any], approximation: Approximation) -> Moments:
    # Transformations put placeholders (axes, None, specs) where the tensors were, so nothing is checked here.
    moments = object.__new__(Moments)
    expectation, variance = leaves
    object.__setattr__(moments, "expectation", expectation)
    object.__setattr__(moments, "variance", variance)
    object.__setattr__(moments, "approximation", approximation)
    return moments


register_pytree_node(Moments, _flatten, _unflatten, serialized_type_name=f"{Moments.__module__}.{Moments.__qualname__}")
