"""Which rule carries which torch function over to means and variances; a function without one is refused."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from bayes_influence.errors import BayesInfluenceError

Rule = Callable[..., Any]
RuleT = TypeVar("RuleT", bound=Rule)

_NAMESPACES = (torch, Tensor, F, torch.special)
_RULES: dict[Callable[..., Any], Rule] = {}
_ENTRYWISE: set[Callable[..., Any]] = set()
_COVARIANT: set[Callable[..., Any]] = set()

_OPERATORS_IN_PLACE = {
    "__iadd__": "add",
    "__isub__": "sub",
    "__imul__": "mul",
    "__itruediv__": "div",
    "__idiv__": "div",
    "__ipow__": "pow",
    "__ifloordiv__": "floor_divide",
    "__imod__": "remainder",
}


def _out_of_place() -> dict[Callable[..., Any], Callable[..., Any]]:
    """The function that returns what each function in place writes: `torch.add` for `Tensor.add_`."""
    pairs = {
        getattr(namespace, name): getattr(namespace, name[:-1], None) or getattr(Tensor, name[:-1], None)
        for namespace in _NAMESPACES
        for name in dir(namespace)
        if name.endswith("_") and not name.startswith("_")
    }
    pairs.update({getattr(Tensor, name, None): getattr(Tensor, plain) for name, plain in _OPERATORS_IN_PLACE.items()})
    return {written: returned for written, returned in pairs.items() if callable(written) and callable(returned)}


OUT_OF_PLACE = _out_of_place()


class UnsupportedOperationError(BayesInfluenceError, NotImplementedError):
    """An operation met `Moments` and has no rule for their variance."""


def functions_named(name: str) -> list[Callable[..., Any]]:
    """Every torch function and tensor method of that name: `torch.f`, `Tensor.f`, `torch.nn.functional.f`, ...

    Raises:
        ValueError: If torch has none.
    """
    found = [getattr(namespace, name) for namespace in _NAMESPACES if callable(getattr(namespace, name, None))]
    if not found:
        raise ValueError(f"torch has no function named {name!r}")
    return found


def rule(
    *functions: str | Callable[..., Any], entrywise: bool = False, covariant: bool = False
) -> Callable[[RuleT], RuleT]:
    """Registers the decorated function as the moment rule of torch functions.

    The rule is called with the arguments of the torch function, `Moments` among them.

    Args:
        functions: Torch functions, or names that stand for all of their spellings (`"add"` for `torch.add` and
            `Tensor.add`).
        entrywise: Whether every entry of the result comes from one entry of the input, so that nothing is mixed; what
            has been concatenated from two calls of a layer may go through such a rule, and through no other.
        covariant: Whether the rule gives its result the covariance that follows from that of its arguments.
    """

    def register(propagate: RuleT) -> RuleT:
        for function in functions:
            for spelling in functions_named(function) if isinstance(function, str) else [function]:
                _RULES[spelling] = propagate
                if entrywise:
                    _ENTRYWISE.add(spelling)
                if covariant:
                    _COVARIANT.add(spelling)
        return propagate

    return register


def has_rule(function: Callable[..., Any]) -> bool:
    """Whether `Moments` may go through this torch function."""
    return function in _RULES


def is_entrywise(function: Callable[..., Any]) -> bool:
    """Whether the function's rule mixes no entries."""
    return function in _ENTRYWISE


def keeps_covariance(function: Callable[..., Any]) -> bool:
    """Whether the function's rule follows covariances."""
    return function in _COVARIANT


def apply_rule(function: Callable[..., Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
    """Calls the rule of a torch function.

    Raises:
        UnsupportedOperationError: If it has none, or none for these arguments; a variance is never dropped.
        TypeError: If a rule fails with one on arguments that it does take.
    """
    propagate = _RULES.get(function)
    if propagate is None:
        raise UnsupportedOperationError(
            f"{in_words(function)} has no rule for Moments (a mean and a variance). Use an operation that has one, "
            "wrap an elementwise function of your own in bayes_influence.moments.elementwise, or register a rule with "
            "bayes_influence.moments.rule"
        )
    given = dict(kwargs or {})
    if given.pop("out", None) is not None:
        raise UnsupportedOperationError(
            f"{in_words(function)} cannot write a mean and a variance into a tensor; leave out= away and take what it "
            f"returns"
        )
    try:
        return propagate(*args, **given)
    except TypeError:
        _check_arguments(function, propagate, args, given)
        raise


def _check_arguments(
    function: Callable[..., Any], propagate: Rule, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> None:
    signature = inspect.signature(propagate)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise UnsupportedOperationError(
            f"{in_words(function)} of Moments does not take these arguments ({error}); its rule is called as "
            f"{signature}"
        ) from None


def in_words(function: Callable[..., Any]) -> str:
    """What a torch function is called, as one would write it."""
    return torch.overrides.resolve_name(function) or getattr(function, "__name__", repr(function))
