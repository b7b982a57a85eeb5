"""`Moments`: the expectation and the variance of an activation, in place of a tensor."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, get_args, no_type_check
from weakref import ref

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.moments.operators import Operators
from bayes_influence.moments.passes import Calls, module_in_call, refuse_question_for_tensors
from bayes_influence.moments.registry import (
    OUT_OF_PLACE,
    UnsupportedOperationError,
    apply_rule,
    in_words,
    is_entrywise,
    keeps_covariance,
)
from bayes_influence.moments.sources import Covariance, Source, unchecked
from bayes_influence.torch_internals import register_pytree_node, tree_map

VARIANCE_FLOOR = 1e-12
"""Where a rule divides by a variance or takes its root, the variance is at least this: a standard deviation of 1e-6,
below float32's resolution of an activation of order one, and far enough above zero for finite derivatives."""

Method = Literal["first-order", "exact", "gauss-hermite"]
"""How moments pass elementwise activations."""

Structure = Literal["diagonal", "calibrated", "covariance", "calibrated-covariance"]
"""What of the covariance between activations their variances take in."""

METHODS = get_args(Method)
MAX_POOLINGS = ("co-pooling", "clark")
STRUCTURES = get_args(Structure)


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
        structure: `"diagonal"`: entries count as independent. `"calibrated"`: the same rules, and a factor per layer
            and channel on the variances, which sampling finds, see `variance_factors`. `"covariance"`: fully connected
            layers hand on the covariance of their outputs, see `Covariance`. `"calibrated-covariance"`: both.
        calls: The calls of layers behind the moments, which the layers note.

    Raises:
        ValueError: If one of them is unknown.
    """

    method: str = "first-order"
    max_pooling: str = "co-pooling"
    structure: str = "diagonal"
    calls: Calls = field(default=Calls(), repr=False, compare=False)

    @property
    def options(self) -> tuple[str, str, str]:
        """Method, max pooling and structure, without the calls."""
        return self.method, self.max_pooling, self.structure

    def __repr__(self) -> str:
        structure = "" if self.structure == "diagonal" else f", structure={self.structure!r}"
        return f"Approximation(method={self.method!r}, max_pooling={self.max_pooling!r}{structure})"

    @property
    def calibrated(self) -> bool:
        """Whether layers have variance factors."""
        return self.structure.startswith("calibrated")

    @property
    def covariant(self) -> bool:
        """Whether fully connected layers hand on the covariance of their outputs."""
        return self.structure.endswith("covariance")

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"unknown method {self.method!r}; known: {', '.join(METHODS)}")
        if self.max_pooling not in MAX_POOLINGS:
            raise ValueError(f"unknown max_pooling {self.max_pooling!r}; known: {', '.join(MAX_POOLINGS)}")
        if self.structure not in STRUCTURES:
            raise ValueError(f"unknown structure {self.structure!r}; known: {', '.join(STRUCTURES)}")


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class Moments(Operators):
    """Elementwise expectation and variance of an activation whose entries are treated as independent.

    Not a tensor: torch functions, tensor methods and operators that receive `Moments` are dispatched to the rule
    registered for them, and one without a rule raises `UnsupportedOperationError`. Operations in place change the
    object, under all its names, as they change a tensor. A pytree with the leaves
    (expectation, variance), so `vmap`, `grad`, `jvp`, `make_fx` and `tree_map` take it apart and put it together, and a
    dataset may hold it as inputs.

    Attributes:
        expectation: m, any shape. Not called `mean`, for that is a method of tensors: `x.mean(dim)` averages entries.
        variance: v >= 0, the same shape.
        approximation: What rules with a choice use; the first Bayesian layer sets its own.
        covariance: What the entries of the last axis have in common, where that is followed; None where they count as
            independent.
        relatives: Those that share its entries, where there are any, for operations in place.
        own: What the entries' own parts are, once a covariance has come to depend on them.

    Raises:
        TypeError: If a part is not a tensor.
        ValueError: If the shapes differ.
    """

    expectation: Tensor
    variance: Tensor
    approximation: Approximation = Approximation()
    covariance: Covariance | None = None
    relatives: list[ref[Moments]] | None = field(default=None, init=False, repr=False)
    own: Source | None = field(default=None, init=False, repr=False)

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
        return _apply(func, *args, **(kwargs or {}))

    @property
    @no_type_check  # a checked call would put a frame between this and whoever asks
    def __class__(self) -> type[Moments]:
        refuse_question_for_tensors(sys._getframe(1))
        return Moments

    def __reduce__(self) -> tuple[type[Moments], tuple[Any, ...]]:
        return Moments, (self.expectation, self.variance, Approximation(*self.approximation.options), self._alone)

    def __getattr__(self, name: str) -> Any:
        """Tensor methods, as rules: `x.flatten(1)` is `Tensor.flatten` carried over."""
        function = None if name.startswith("_") else getattr(Tensor, name, None)
        if not callable(function):
            raise AttributeError(f"Moments has no attribute {name!r}; its parts are .expectation and .variance")
        return partial(_apply, function, self)

    @property
    def _alone(self) -> Covariance | None:
        return self.covariance and replace(self.covariance, sources=None)

    @property
    def marginal(self) -> Moments:
        """The same without what its entries have in common."""
        return Moments(self.expectation, self.variance, self.approximation)

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

    @property
    def T(self) -> Moments:  # noqa: N802 (as tensors call it)
        """The axes in reverse."""
        return _apply(torch.permute, self, tuple(reversed(range(self.ndim))))

    @property
    def mT(self) -> Moments:  # noqa: N802
        """The last two axes exchanged."""
        return _apply(torch.transpose, self, -2, -1)

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


def same_storage(x: Moments, *views: Moments) -> None:
    """Notes that views of moments, as an index or a reshape gives them, are changed in place where x is."""
    if torch.compiler.is_compiling():
        return
    relatives = [ref(x)] if x.relatives is None else x.relatives
    for member in (x, *views):
        object.__setattr__(member, "relatives", relatives)
    relatives.extend(map(ref, views))


def assign(x: Any, result: Moments) -> Moments:
    """Gives x the values of a result, as an operation in place does; every name of the object sees them.

    Raises:
        UnsupportedOperationError: If x is a tensor, or a view of it, or what it is a view of, is still in use.
        ValueError: If the result has another shape than x.
    """
    if not isinstance(x, Moments):
        raise UnsupportedOperationError(
            f"a {type(x).__name__} cannot take in Moments in place; write the operation out of place, as in x = x + y"
        )
    if result.shape != x.shape:
        raise ValueError(f"in place, the result must keep the shape {tuple(x.shape)}, got {tuple(result.shape)}")
    if any(not (relative() is None or relative() is x) for relative in x.relatives or ()):
        raise UnsupportedOperationError(
            "Moments were to be changed in place while a view of them (an index, a slice, a reshape) is in use, which "
            "would keep its old values; write the operation out of place, with inplace=False, or clone() the view"
        )
    for name, value in (("expectation", result.expectation), ("variance", result.variance)):
        object.__setattr__(x, name, value.to(x.dtype))
    object.__setattr__(x, "approximation", result.approximation)
    object.__setattr__(x, "covariance", result.covariance)
    object.__setattr__(x, "own", result.own)
    return x


def _apply(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    out_of_place = OUT_OF_PLACE.get(function)
    if out_of_place is not None:
        return assign(args[0], _apply(out_of_place, *args, **kwargs))
    if not keeps_covariance(function):
        args, kwargs = tree_map(_without_covariance(function), (args, kwargs), is_leaf=_is_moments)
    if not is_entrywise(function):
        for value in (*args, *kwargs.values()):
            if isinstance(value, Moments):
                value.approximation.calls.check_mixed()
    return apply_rule(function, args, kwargs)


def _is_moments(value: Any) -> bool:
    return isinstance(value, Moments)


def _without_covariance(function: Callable[..., Any]) -> Callable[[Any], Any]:
    return lambda value: without_covariance(in_words(function), value) if isinstance(value, Moments) else value


def without_covariance(what: str, x: Moments) -> Moments:
    """Takes away the covariance of what comes out of a network; within one, an error that names the operation."""
    if x.covariance is None:
        return x
    inside = not torch.compiler.is_compiling() and module_in_call(sys._getframe(1)) is not None
    if inside and x.shape[-1] > 1:
        raise without_covariance_rule(what, x.approximation)
    return x.marginal


def without_covariance_rule(what: str, approximation: Approximation) -> UnsupportedOperationError:
    """The error for an operation that a covariance cannot be followed through."""
    return UnsupportedOperationError(
        f"{what} has no rule for the covariance that structure={approximation.structure!r} follows from the first "
        "fully connected layer on; convert the network with structure='calibrated' or 'diagonal', or hand on "
        "x.marginal, without the covariance, where it may be neglected"
    )


def _flatten(moments: Moments) -> tuple[list[Any], Approximation]:
    parts = moments.covariance
    placeholders = parts is not None and not isinstance(parts.scale, Tensor)  # as in a specification of axes
    covariance = () if parts is None else (parts if placeholders else parts.with_own_columns()).tensors
    return [moments.expectation, moments.variance, *covariance], moments.approximation


def _unflatten(leaves: Iterable[Any], approximation: Approximation) -> Moments:
    # Transformations put placeholders (axes, None, specs) where the tensors were, so nothing is checked here.
    moments = object.__new__(Moments)
    expectation, variance, *covariance = leaves
    object.__setattr__(moments, "expectation", expectation)
    object.__setattr__(moments, "variance", variance)
    object.__setattr__(moments, "approximation", approximation)
    object.__setattr__(moments, "covariance", unchecked(covariance) if covariance else None)
    object.__setattr__(moments, "relatives", None)
    object.__setattr__(moments, "own", None)
    return moments


register_pytree_node(Moments, _flatten, _unflatten, serialized_type_name=f"{Moments.__module__}.{Moments.__qualname__}")
