"""What the studies of groups are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from bayes_influence.data.dataset import Split
from bayes_influence.experiments.papers.groups.data import gaussian_blobs, gaussian_classes
from bayes_influence.experiments.papers.scaled import ScaledStudy
from bayes_influence.experiments.papers.small_images import SmallImageStudy

KINDS = ("random", "coherent")
"""Any examples; those of one class, and where it does not suffice of the next."""


@dataclass(frozen=True)
class GroupScale:
    """How large a study of groups is where nothing else is said.

    Attributes:
        repeats: Seeds.
        groups: Of each kind and size.
        train: Training examples.
        fractions: Sizes of the groups, as shares of the training examples.
    """

    repeats: int
    groups: int
    train: int
    fractions: tuple[float, ...]


FRACTIONS = (0.016, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
"""The paper's range of sizes."""


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
        if not self.decay > 0:
            raise ValueError(f"decay must be positive, or refits have no minimum to reach, got {self.decay}")

    def split(self, seed: int) -> Split:
        """The data of a seed."""
        raise NotImplementedError


@dataclass(frozen=True)
class SyntheticGroups(GroupStudy):
    """Two Gaussian classes in five features; see `GroupStudy`."""

    SCALES: ClassVar[Mapping[str, Any]] = {
        "quick": GroupScale(2, 4, 500, (0.016, 0.2, 0.6)),
        "full": GroupScale(5, 20, 10_000, FRACTIONS),
    }
    NAME: ClassVar[str] = "group-synthetic"

    def split(self, seed: int) -> Split:
        """`gaussian_classes`, with a tenth as many test examples."""
        return gaussian_classes(self.size.train, max(100, self.size.train // 10), seed)


@dataclass(frozen=True)
class DigitScale(GroupScale):
    """As `GroupScale`.

    Attributes:
        side: Pixels a side.
    """

    side: int = 14


@dataclass(frozen=True)
class DigitGroups(GroupStudy, SmallImageStudy):
    """MNIST, ten classes, at a resolution that can be refitted; see `GroupStudy`.

    Exact refits take (10 side^2 + 10)^2 numbers each.
    """

    SCALES: ClassVar[Mapping[str, Any]] = {
        "quick": DigitScale(1, 4, 500, (0.016, 0.2, 0.6), side=7),
        "full": DigitScale(3, 10, 5_000, FRACTIONS),
    }
    NAME: ClassVar[str] = "group-mnist"

    def split(self, seed: int) -> Split:
        """Small images, with 1 000 test images."""
        return self.images(seed, train=self.size.train, test=1000)


@dataclass(frozen=True)
class SelectedGroups(GroupStudy):
    """Four blobs, and the group that holds a wrong prediction most, next to random ones; see `GroupStudy`."""

    SCALES: ClassVar[Mapping[str, Any]] = {
        "quick": GroupScale(2, 5, 400, (0.1, 0.2, 0.3)),
        "full": GroupScale(5, 20, 20_000, (0.1, 0.2, 0.3)),
    }
    NAME: ClassVar[str] = "group-selection"
    PARTS: ClassVar[tuple[str, ...]] = ("",)

    def split(self, seed: int) -> Split:
        """`gaussian_blobs`, with a tenth as many test examples."""
        return gaussian_blobs(self.size.train, max(200, self.size.train // 10), seed)
