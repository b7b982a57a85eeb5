"""What the studies of groups are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from bayes_influence.data.dataset import Split
from bayes_influence.experiments.papers.groups.data import gaussian_classes, small_digits
from bayes_influence.experiments.store.settings import Settings

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
class GroupStudy(Settings):
    """Logistic regression whose groups are predicted and removed; a test example that it gets wrong.

    Attributes:
        scale: "quick" or "full": how large it is where the next options do not say.
        repeats: Seeds, each with data, test example and groups of its own; the scale's when not given.
        groups: Of each kind and size; the scale's when not given.
        train: Training examples; the scale's when not given.
        decay: lambda of the weight decay (lambda/2)|theta|^2.
        seed: The first seed.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    scale: str = "quick"
    repeats: int | None = None
    groups: int | None = None
    train: int | None = None
    decay: float = 0.01
    seed: int = 0

    SCALES: ClassVar[dict[str, GroupScale]]
    NAME: ClassVar[str]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_known(scale=self.SCALES)
        self.check_at_least(repeats=1, groups=3, train=50, seed=0)
        if not self.decay > 0:
            raise ValueError(f"decay must be positive, or refits have no minimum to reach, got {self.decay}")

    @property
    def size(self) -> GroupScale:
        """The numbers that the scale and the options come to."""
        scale = self.SCALES[self.scale]
        said = {name: getattr(self, name) or getattr(scale, name) for name in ("repeats", "groups", "train")}
        return GroupScale(**said, fractions=scale.fractions)

    def configuration(self) -> dict[str, Any]:
        """What a result folder belongs to; seeds can be added."""
        size = self.size
        said = ("scale", "repeats", "groups", "train", "data_folder")
        own = {name: value for name, value in self.to_config().items() if name not in said}
        return {"study": self.NAME, **own, "groups": size.groups, "train": size.train, "fractions": size.fractions}

    def split(self, seed: int) -> Split:
        """The data of a seed."""
        raise NotImplementedError


@dataclass(frozen=True)
class SyntheticGroups(GroupStudy):
    """Two Gaussian classes in five features; see `GroupStudy`."""

    SCALES: ClassVar[dict[str, GroupScale]] = {
        "quick": GroupScale(2, 4, 500, (0.016, 0.2, 0.6)),
        "full": GroupScale(5, 20, 10_000, FRACTIONS),
    }
    NAME: ClassVar[str] = "group-synthetic"

    def split(self, seed: int) -> Split:
        """`gaussian_classes`, with a tenth as many test examples."""
        return gaussian_classes(self.size.train, max(100, self.size.train // 10), seed)


@dataclass(frozen=True)
class DigitGroups(GroupStudy):
    """MNIST, ten classes, at a resolution that can be refitted; see `GroupStudy`.

    Attributes:
        side: Pixels a side, a divisor of 28: exact refits take (10 side^2 + 10)^2 numbers each. 7 in "quick" and 14 in
            "full" when not given.
        data_folder: Where image sets are kept.
    """

    side: int | None = None
    data_folder: str | None = None

    SCALES: ClassVar[dict[str, GroupScale]] = {
        "quick": GroupScale(1, 4, 500, (0.016, 0.2, 0.6)),
        "full": GroupScale(3, 10, 5_000, FRACTIONS),
    }
    NAME: ClassVar[str] = "group-mnist"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(side=1)
        if 28 % self.pixels:
            raise ValueError(f"side must divide 28, the pixels of a digit's side, got {self.side}; take 14 or 7")

    @property
    def pixels(self) -> int:
        """A side's pixels."""
        return self.side or {"quick": 7, "full": 14}[self.scale]

    def configuration(self) -> dict[str, Any]:
        """As `GroupStudy.configuration`, with the pixels."""
        return {**super().configuration(), "side": self.pixels}

    def split(self, seed: int) -> Split:
        """`small_digits`, with 1 000 test images."""
        return small_digits(self.size.train, 1000, self.pixels, seed, self.data_folder)
