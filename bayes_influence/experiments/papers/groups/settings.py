"""What the studies of groups are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from bayes_influence.data.dataset import Split
from bayes_influence.experiments.papers.groups.data import gaussian_blobs, gaussian_classes
from bayes_influence.experiments.papers.scaled import NO_MINIMUM, ScaledStudy, StudyScale
from bayes_influence.experiments.papers.small_images import SmallImageScale, SmallImageStudy

KINDS = ("random", "coherent")
"""Any examples; those of one class, and where it does not suffice of the next."""


@dataclass(frozen=True, kw_only=True)
class GroupScale(StudyScale):
    """As `StudyScale`.

    Attributes:
        groups: Of each kind and size.
        train: Training examples.
        fractions: Sizes of the groups, as shares of the training examples.
    """

    groups: int
    train: int
    fractions: tuple[float, ...]


FRACTIONS = (0.016, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
"""The paper's range of sizes."""

FEW_FRACTIONS = (0.016, 0.2, 0.6)
"""Both of its ends and one between."""

SELECTED = (0.1, 0.2, 0.3)
"""Sizes of the groups that are selected."""


@dataclass(frozen=True)
class GroupStudy(ScaledStudy):
    """Softmax regression whose groups are predicted and removed; a test example that it gets wrong.

    Attributes:
        groups: Of each kind and size; the scale's when not given.
        train: Training examples; the scale's when not given.
        decay: lambda of the weight decay (lambda/2)|theta|^2.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    groups: int | None = None
    train: int | None = None
    decay: float = 0.01

    PARTS: ClassVar[tuple[str, ...]] = KINDS

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(groups=3, train=50)
        self.check_positive(decay=NO_MINIMUM)

    def split(self, seed: int) -> Split:
        """The data of a seed."""
        raise NotImplementedError


@dataclass(frozen=True)
class SyntheticGroups(GroupStudy):
    """Two Gaussian classes in five features; see `GroupStudy`."""

    SCALES: ClassVar[Mapping[str, Any]] = {
        "quick": GroupScale(repeats=2, groups=4, train=500, fractions=FEW_FRACTIONS),
        "full": GroupScale(repeats=5, groups=20, train=10_000, fractions=FRACTIONS),
    }
    NAME: ClassVar[str] = "group-synthetic"
    FULL_MINUTES: ClassVar[float] = 11

    def split(self, seed: int) -> Split:
        """`gaussian_classes`, with a tenth as many test examples."""
        return gaussian_classes(self.size.train, max(100, self.size.train // 10), seed)


@dataclass(frozen=True, kw_only=True)
class DigitScale(GroupScale, SmallImageScale):
    """As `GroupScale` and `SmallImageScale`."""


@dataclass(frozen=True)
class DigitGroups(GroupStudy, SmallImageStudy):
    """MNIST, ten classes, at a resolution that can be refitted; see `GroupStudy`.

    Exact refits take (10 side^2 + 10)^2 numbers each.
    """

    SCALES: ClassVar[Mapping[str, Any]] = {
        "quick": DigitScale(repeats=1, side=7, groups=4, train=500, fractions=FEW_FRACTIONS),
        "full": DigitScale(repeats=3, side=14, groups=10, train=5_000, fractions=FRACTIONS),
    }
    NAME: ClassVar[str] = "group-mnist"
    FULL_MINUTES: ClassVar[float] = 75

    def split(self, seed: int) -> Split:
        """Small images, with 1 000 test images."""
        return self.images(seed, train=self.size.train, test=1000)


@dataclass(frozen=True)
class SelectedGroups(GroupStudy):
    """Four blobs, and the group that holds a wrong prediction most, next to random ones; see `GroupStudy`."""

    SCALES: ClassVar[Mapping[str, Any]] = {
        "quick": GroupScale(repeats=2, groups=5, train=400, fractions=SELECTED),
        "full": GroupScale(repeats=5, groups=20, train=20_000, fractions=SELECTED),
    }
    NAME: ClassVar[str] = "group-selection"
    FULL_MINUTES: ClassVar[float] = 5
    PARTS: ClassVar[tuple[str, ...]] = ("",)

    def split(self, seed: int) -> Split:
        """`gaussian_blobs`, with a tenth as many test examples."""
        return gaussian_blobs(self.size.train, max(200, self.size.train // 10), seed)
