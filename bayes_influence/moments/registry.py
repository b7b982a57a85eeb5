"""Which rule carries which torch function over to means and variances; a function without one is refused."""

from __future__ import annotations

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


def rule(*functions: str | Callable[..., Any]) -> Callable[[RuleT], RuleT]:
    """Registers the decorated function as the moment rule of torch functions.

    The rule is called with the arguments of the torch function, `Moments` among them.

    Args:
        functions: Torch functions, or names that stand for all of their spellings (`"add"` for `torch.add` and
            `Tensor.add`).
    """

    def register(propagate: RuleT) -> RuleT:
        for function in functions:
            for spelling in functions_named(function) if isinstance(function, str) else [function]:
                _RULES[spelling] = propagate
        return propagate

    return register


def has_rule(function: Callable[..., Any]) -> bool:
    """Whether `Moments` may go through this torch function."""
    return function in _RULES


def apply_rule(function: Callable[..., Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
    """Calls the rule of a torch function.

    Raises:
        UnsupportedOperationError: If it has none; a variance is never dropped.
    """
    propagate = _RULES.get(function)
    if propagate is None:
        name = torch.overrides.resolve_name(function) or getattr(function, "__name__", repr(function))
        raise UnsupportedOperationError(
            f"{name} has no rule for Moments (a mean and a variance). Use an operation that has one, wrap an "
            "elementwise function of your own in bayes_influence.moments.elementwise, or register a rule with "
            "bayes_influence.moments.rule"
        )
    return propagate(*args, **(kwargs or {}))
