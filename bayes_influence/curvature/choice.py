"""How what stands for a choice is read, be it a kind of curvature or a solver."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Choice = TypeVar("Choice")


def chosen(
    value: Any, base: type[Choice], known: Mapping[str, type[Choice]], *, what: str, function: str, hint: str = ""
) -> Choice | Callable[..., Any]:
    """The choice that is meant by an object, its class or its name; a function is returned as it is.

    Args:
        value: What came.
        base: What every choice is an instance of.
        known: The choices by name.
        what: The noun and what it is, `"solver is an object such as Cholesky()"`; a message begins with it.
        function: What a function of one's own looks like, `"(operator, rhs) -> Solution"`.
        hint: What else to say of an unknown name.

    Raises:
        ValueError: If the name is unknown.
        TypeError: If it is none of these.
    """
    if isinstance(value, base):
        return value
    names = ", ".join(known)
    if isinstance(value, str):
        if value not in known:
            noun = what.partition(" ")[0]
            raise ValueError(f"unknown {noun} {value!r}; known: {names}, or a function {function}{hint}")
        return known[value]()
    if isinstance(value, type) and issubclass(value, base):
        return value()
    if not callable(value):
        raise TypeError(f"a {what}, a name of {names}, or a function {function}, got {type(value).__name__}")
    return value
