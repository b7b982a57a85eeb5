"""What trained networks and the functions that build them are, for the fingerprint of a stored result."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from typing import Any

from torch import nn

from bayes_influence.data.dataset import Dataset
from bayes_influence.data.fingerprint import fingerprint
from bayes_influence.models.initialisation import seeded
from bayes_influence.objectives.identity import identity
from bayes_influence.objectives.members import Members
from bayes_influence.training.scheme import Scheme


def identity_of_members(members: Members) -> dict[str, Any]:
    """Everything about trained networks that what comes after their training depends on."""
    held = {field.name: getattr(members, field.name) for field in fields(Members)}
    return {**held, "objective": identity(members.objective)}


def described(value: Any) -> Any:
    """A setting as JSON can hold it: numbers and words as such, a dataclass by its kind and fields, else a fingerprint.

    Raises:
        UnidentifiableError: If it cannot be told from another of its kind.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if is_dataclass(value) and not isinstance(value, type | Dataset):
        settings = {field.name: described(getattr(value, field.name)) for field in fields(value)}
        return {"kind": type(value).__name__} | settings
    return fingerprint(value=value)


def described_schemes(schemes: Iterable[Scheme]) -> dict[str, Any]:
    """All that schemes came to, by name: a number that was left unsaid may be another one in another version.

    Raises:
        UnidentifiableError: As `described`.
    """
    return {scheme.name: described(scheme) for scheme in schemes}


def fingerprint_of_builder(make_network: Callable[[], nn.Module]) -> str:
    """The fingerprint of the network that a function builds from one seed: its layers, and how they are initialised.

    The caller's generator is left as it was.
    """
    with seeded(0):
        network = make_network()
    return fingerprint(network=network)
