"""The one form that settings have: a frozen dataclass, checked when made, to and from the stored configuration."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from math import isfinite
from numbers import Integral, Real
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from bayes_influence.arguments import shown

Own = TypeVar("Own", bound="Settings")

ATTRIBUTE = re.compile(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)
"""An attribute in a docstring, and what is said about it."""


@dataclass(frozen=True)
class Settings:
    """Base of everything that a study is asked for.

    A subclass is a frozen dataclass with a default for every field, and checks its values in `__post_init__`, after
    their kinds, which are checked here. What `config.json` holds is `to_config()`; `from_config` reads it back, also
    after JSON.

    Raises:
        TypeError: If a value is of another kind than its field.
        ValueError: If a number is not finite.
    """

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if not _fits(kind, value):
                asked = getattr(kind, "__name__", str(kind)) if get_origin(kind) is None else str(kind)
                raise TypeError(f"{name} must be {asked}, got {shown(value)}")
            if isinstance(value, float) and not isfinite(value):
                raise ValueError(f"{name} must be a finite number, got {value}")

    def to_config(self) -> dict[str, Any]:
        """Everything needed to repeat the study, as JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_config(cls: type[Own], config: Mapping[str, Any]) -> Own:
        """The settings that `to_config` described; what is not in it has its default.

        Args:
            config: Values by field; lists stand for tuples, and mappings for settings within settings.

        Raises:
            ValueError: If a name is no field, or a value is one that the settings refuse.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(config) - known)
        if unknown:
            raise ValueError(
                f"{cls.__name__} has no setting {unknown[0]!r}; it has {', '.join(sorted(known))}. The configuration "
                "was written by another version, or belongs to a study of another kind"
            )
        return _read(cls, config)

    @classmethod
    def descriptions(cls) -> dict[str, str]:
        """What is said about every field, see `attributes_of`."""
        found = attributes_of(cls)
        return {one.name: found.get(one.name, "") for one in fields(cls)}

    def check_known(self, **known: Iterable[str]) -> None:
        """Refuses a value that is not among those known; None, for a field left unsaid, passes.

        Args:
            **known: The values that each of the named fields may have.

        Raises:
            ValueError: Naming the field, its value, and what there is.
        """
        for name, values in known.items():
            value = getattr(self, name)
            if value is not None and value not in tuple(values):
                raise ValueError(f"unknown {name} {value!r}; known: {', '.join(values)}")

    def check_at_least(self, **least: int) -> None:
        """Refuses a number that is too small; None, for a field left unsaid, passes.

        Args:
            **least: The smallest value of each of the named fields.

        Raises:
            ValueError: Naming the field, the smallest value and its own.
        """
        for name, smallest in least.items():
            value = getattr(self, name)
            if value is not None and value < smallest:
                raise ValueError(f"{name} must be at least {smallest}, got {value}")

    def check_positive(self, **otherwise: str) -> None:
        """Refuses a number that is not above 0; None, for a field left unsaid, passes.

        Args:
            **otherwise: Of each of the named fields, what it would be with another one: "or ...".

        Raises:
            ValueError: Naming the field, why it must be positive, and its value.
        """
        for name, reason in otherwise.items():
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, {reason}, got {value}")


def _fits(kind: Any, value: Any) -> bool:
    """Whether a value is of the kind of a field; a whole number is a real one, too."""
    if get_origin(kind) in (Union, UnionType):
        return any(_fits(one, value) for one in get_args(kind))
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_fits(get_args(kind)[0], one) for one in value)
    if isinstance(value, bool):
        return kind is bool
    wanted = {float: Real, int: Integral, bool: bool}.get(kind, kind)
    return isinstance(value, wanted) if isinstance(wanted, type) else True


def attributes_of(kind: type) -> dict[str, str]:
    """What the docstrings of a class and of its bases say about every attribute, in one line each."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        _, _, attributes = inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")
        section = attributes.split("\n\n")[0]
        found |= {name: " ".join(text.split()) for name, text in ATTRIBUTE.findall(section)}
    return found


def _read(kind: Any, value: Any) -> Any:
    """A value of a stored configuration as a field of this kind has it."""
    if get_origin(kind) in (Union, UnionType):
        return value if value is None else _read(next(one for one in get_args(kind) if one is not type(None)), value)
    if get_origin(kind) is tuple:
        return tuple(value)
    if isinstance(kind, type) and is_dataclass(kind) and isinstance(value, Mapping):
        kinds = get_type_hints(kind)
        return kind(**{name: _read(kinds[name], part) for name, part in value.items()})
    return value
