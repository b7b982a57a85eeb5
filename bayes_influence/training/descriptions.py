"""Likelihoods, regularisers and schemes as JSON can hold them, made again from known classes alone: no pickle."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeGuard

from torch import Tensor, nn

from bayes_influence.objectives.criteria import PerExample
from bayes_influence.objectives.ensembles import EnsembleCrossEntropy
from bayes_influence.objectives.expected_likelihoods import (
    ExpectedBernoulli,
    ExpectedGaussian,
    ExtendedVI,
    JensenCategorical,
    SobolCategorical,
    TaylorCategorical,
    TiltedCategorical,
)
from bayes_influence.objectives.likelihoods import Bernoulli, CrossEntropy, GaussianNoise
from bayes_influence.objectives.regularisers import GaussianKL, NoRegulariser, WeightDecay
from bayes_influence.training.averaging import SWAG
from bayes_influence.training.deterministic import DeepEnsemble, Deterministic, Dropout, Laplace
from bayes_influence.training.schedules import SWA
from bayes_influence.training.schemes import MeanFieldVI, OnlineNewton, Variational

KNOWN: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        *(CrossEntropy, EnsembleCrossEntropy, Bernoulli, GaussianNoise, ExpectedBernoulli, ExpectedGaussian),
        *(TiltedCategorical, JensenCategorical, TaylorCategorical, SobolCategorical, ExtendedVI),
        *(NoRegulariser, WeightDecay, GaussianKL, SWA, SWAG),
        *(Deterministic, DeepEnsemble, Dropout, Laplace, Variational, MeanFieldVI, OnlineNewton),
    )
}
"""Classes that a description may name: dataclasses of plain values and of each other."""

CLASS, MAPPING, GIVEN, LOSS = "class", "mapping", "given", "loss"
"""What a description that is no plain value is of: a known class, a dict, something of the user's, a loss of torch."""


def described(value: Any) -> Any:
    """A value as JSON can hold it; of something of the user's only what it is called.

    Args:
        value: A plain value, a tuple, list or dict of them, an instance of a class in `KNOWN`, or anything else.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [described(one) for one in value]
    if isinstance(value, Mapping):
        return {MAPPING: {str(name): described(one) for name, one in value.items()}}
    if KNOWN.get(type(value).__name__) is type(value):
        own = {one.name: described(getattr(value, one.name)) for one in fields(value)}
        return {CLASS: type(value).__name__, **own}
    if isinstance(value, PerExample):
        options = _loss_options(value.criterion)
        if options is not None:
            return {LOSS: type(value.criterion).__name__, **options}
        return {GIVEN: repr(value)}
    return {GIVEN: getattr(value, "__name__", None) or type(value).__name__}


def restored(description: Any, what: str, given: Any = None) -> Any:
    """What `described` described; the user's own thing where it is `given`.

    Args:
        description: As JSON returned it.
        what: What it is called in messages, and the argument that takes it.
        given: The thing itself, where the caller has it.

    Raises:
        ValueError: If what is given is another thing than what was stored, or has to be given and is not, or the
            description names no known class.
    """
    if given is not None:
        if described(given) != description:
            raise ValueError(f"the {what} that was saved is {shown(description)}, but {shown(described(given))} came")
        return given
    if isinstance(description, list):
        return tuple(restored(one, what) for one in description)
    if not isinstance(description, dict):
        return description
    if GIVEN in description:
        raise ValueError(
            f"the {what} that was saved is {shown(description)}, of which a file can hold the name only; pass it, "
            f"load(path, network, {what}=...)"
        )
    if MAPPING in description:
        return {name: restored(one, what) for name, one in description[MAPPING].items()}
    options = {name: restored(one, what) for name, one in description.items() if name not in (CLASS, LOSS)}
    if LOSS in description:
        loss = getattr(nn, str(description[LOSS]), None)
        if not _is_loss(loss):
            raise ValueError(
                f"the {what} that was saved is torch's {description[LOSS]}, which is no loss of this torch"
            )
        return PerExample(loss(**options))
    if description.get(CLASS) not in KNOWN:
        raise ValueError(f"the {what} that was saved is a {description.get(CLASS)}, which this version does not know")
    return KNOWN[description[CLASS]](**options)


def shown(description: Any) -> str:
    """A description in a message, as Python would write it."""
    if isinstance(description, list):
        return "(" + ", ".join(map(shown, description)) + ")"
    if not isinstance(description, dict):
        return repr(description)
    if GIVEN in description:
        return str(description[GIVEN])
    if MAPPING in description:
        return "{" + ", ".join(f"{name!r}: {shown(one)}" for name, one in description[MAPPING].items()) + "}"
    name = description.get(CLASS) or description.get(LOSS)
    options = ", ".join(f"{key}={shown(one)}" for key, one in description.items() if key not in (CLASS, LOSS))
    return f"{name}({options})"


def _is_loss(kind: Any) -> TypeGuard[type[nn.Module]]:
    return isinstance(kind, type) and issubclass(kind, nn.Module) and kind.__name__.endswith("Loss")


def _loss_options(criterion: Any) -> dict[str, Any] | None:
    """The arguments of one of torch's losses, None of anything else, and of one that holds tensors."""
    kind = type(criterion)
    if not _is_loss(kind) or getattr(nn, kind.__name__, None) is not kind:
        return None
    names = [
        name for name in inspect.signature(kind.__init__).parameters if name not in ("self", "reduce", "size_average")
    ]
    options = {name: getattr(criterion, name, None) for name in names}
    plain = all(value is None or isinstance(value, bool | int | float | str) for value in options.values())
    return options if plain and not any(isinstance(value, Tensor) for value in vars(criterion).values()) else None
