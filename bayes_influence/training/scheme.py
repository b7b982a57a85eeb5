"""What a scheme is: how a network is regularised, which objective its training ends at, and the numbers of both."""

from __future__ import annotations

import types
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import isfinite
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from torch import nn

from bayes_influence.data.dataset import Dataset
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.posteriors import WeightPosterior
from bayes_influence.training.effects import StepEffects, watch_step
from bayes_influence.training.minibatch_schedule import MinibatchSchedule
from bayes_influence.training.schedules import SWA
from bayes_influence.training.steps import StepValue, step_objective

MEMBERS_DIFFER_IN = ("name", "regulariser_weight", "averaging")
"""What members of one ensemble may differ in; averages are taken in one way, or not at all."""


@dataclass(frozen=True)
class Scheme(ABC):
    """How a deterministic network is turned into something trainable, and with which objective.

    Attributes:
        name: What tables, files and options call it.
        averaging: How the iterates are averaged, None to keep the last one.
        regulariser_weight: s in J = data + s R; members of one ensemble may differ in it.
    """

    name: str
    averaging: SWA | None = None
    regulariser_weight: float = 1.0

    def __post_init__(self) -> None:
        """Checks the kind of every number and word; a scheme with limits of its own checks those, too."""
        for name, kind in field_kinds(type(self)).items():
            _check_kind(f"{name} of the scheme {self.name}", getattr(self, name), kind)
        if self.regulariser_weight < 0:
            raise ValueError(
                f"regulariser_weight of the scheme {self.name} must not be negative, got {self.regulariser_weight}"
            )

    def check_positive(self, *names: str) -> None:
        """Refuses numbers that are not positive; None, for one left unsaid, passes.

        Args:
            *names: Fields.

        Raises:
            ValueError: Naming the field and its value.
        """
        for name in names:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} of the scheme {self.name} must be positive, got {value}")

    @abstractmethod
    def prepare(self, network: nn.Module) -> nn.Module:
        """The network that is trained; the deterministic one is not changed."""

    def built(self, make_network: Callable[[], nn.Module]) -> nn.Module:
        """What is trained, from a function that builds the deterministic network."""
        return self.prepare(make_network())

    @abstractmethod
    def objective(self, network: nn.Module, n_train: int, parameters: str | Sequence[str] = "all") -> Objective:
        """What is trained, linearised and retrained, for a prepared network and n training examples."""

    def posterior(self, objective: Objective, train: Dataset) -> WeightPosterior | None:
        """The posterior beside a trained network, under which it is predicted; None where there is none.

        Args:
            objective: Where training ended.
            train: What it was trained on.
        """
        return None

    def shares_ensemble(self, other: Scheme) -> bool:
        """Whether both train as members of one ensemble: alike in class and in all that is stored in them.

        Members may differ in their name, in the regulariser's weight, and in whether (not in how) they average.
        """
        own, others = (
            {name: value for name, value in vars(scheme).items() if name not in MEMBERS_DIFFER_IN}
            for scheme in (self, other)
        )
        averages_alike = self.averaging is None or other.averaging is None or self.averaging == other.averaging
        return type(self) is type(other) and own == others and averages_alike

    def suited(self, task: str, n_targets: int = 1) -> Scheme:
        """The scheme for what is predicted; one that does not know of others than classes is for these alone.

        Args:
            task: `"classification"`, `"labels"` or `"regression"`.
            n_targets: K, the number of labels or real targets.

        Raises:
            ValueError: If it cannot.
        """
        if task == "classification":
            return self
        raise ValueError(f"the scheme {self.name} is for classes, got {task}")

    @property
    def options(self) -> dict[str, Any]:
        """What can be set with `with_options`, and how it stands: every field that changes what is trained."""
        idle = {"name"}
        if self.averaging is None:
            idle.add("averaging")
        if not self.regularised:
            idle.add("regulariser_weight")
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in idle}

    def own(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the options that this scheme has, for what is said to several."""
        return {name: value for name, value in options.items() if name in self.options}

    def with_options(self, **options: Any) -> Scheme:
        """The scheme with other numbers.

        Args:
            **options: Fields by name, each a value or what stands for it.

        Raises:
            ValueError: If the scheme has no such option, the message lists those that it has; or if a value is none
                that the option can have.
            TypeError: If a value is of another kind.
        """
        unknown = sorted(set(options) - set(self.options))
        if unknown:
            raise ValueError(
                f"the scheme {self.name} has no option {', '.join(unknown)}; it has {', '.join(self.options) or 'none'}"
            )
        return replace(self, **options)

    def step(self, objective: Objective, n_train: int, held: Collection[str] = ()) -> StepValue:
        """What a training step in minibatches minimises: the objective itself, its network in training mode.

        Args:
            objective: Of a prepared network.
            n_train: n, how many training examples there are.
            held: Buffers that training leaves as they are.
        """
        return step_objective(objective, held)

    def effects(self, objective: Objective, train: Dataset, held: Collection[str] = ()) -> StepEffects:
        """What a training step on all examples does, seen by doing it where the objective stands, see `watch_step`.

        Raises:
            ValueError: If a step cannot be repeated.
        """
        return watch_step(self.step(objective, len(train), held), objective, objective.fitting(train.batch()))

    def scheduled(self, schedule: MinibatchSchedule) -> MinibatchSchedule:
        """How it is trained in minibatches: as is said, unless the scheme is the optimiser's."""
        return schedule

    @property
    def bayesian(self) -> bool:
        """Whether the network that is trained propagates means and variances."""
        return False

    @property
    def regularised(self) -> bool:
        """Whether the objective has a regulariser, and so a minimum at finite parameters."""
        return self.regulariser_weight > 0


def field_kinds(scheme: type[Scheme]) -> dict[str, Any]:
    """The annotation of every field of a scheme."""
    kinds = get_type_hints(scheme)
    return {field.name: kinds[field.name] for field in fields(scheme)}


def alternatives(kind: Any) -> tuple[Any, ...]:
    """What an annotation allows: the parts of a union, and else itself."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _check_kind(what: str, value: Any, kind: Any) -> None:
    """Refuses a number, a word or an object of another kind than its annotation says."""
    parts = alternatives(kind)
    words = [word for part in parts if get_origin(part) is Literal for word in get_args(part)]
    classes = tuple(part for part in parts if isinstance(part, type))
    if float in classes:
        fine = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
        fine, wanted = fine or (value is None and types.NoneType in classes), "a finite number"
    elif words:
        if isinstance(value, str) and value not in words:
            raise ValueError(f"{what} must be one of {', '.join(words)}, got {value!r}")
        fine, wanted = value in words, f"one of {', '.join(words)}"
    else:
        others = [part for part in parts if part not in classes]
        fine = isinstance(value, classes) or (bool(others) and callable(value))
        wanted = " or ".join(
            [*(part.__name__ for part in classes if part is not types.NoneType), *["a function"] * bool(others)]
        )
    if not fine:
        raise TypeError(f"{what} must be {wanted}, got {value!r}")
