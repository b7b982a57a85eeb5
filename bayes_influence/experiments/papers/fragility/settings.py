"""What the fragility study on Iris is asked for: mode, scale, and what is to be otherwise than the scale has it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from bayes_influence.experiments.comparison.study import Study
from bayes_influence.experiments.papers.fragility.choices import MODES, choices_of
from bayes_influence.experiments.store.settings import Settings
from bayes_influence.training.schemes import DEFAULT_SCHEMES

DEPTHS = tuple(range(1, 9))
"""Hidden layers of the depth series, at width 5."""

WIDTHS = (5, 8, 14, 20, 30, 40, 50)
"""Units of the width series, at depth 1."""

DEPTH_SERIES_WIDTH = 5

SIZES = tuple(dict.fromkeys([*((depth, DEPTH_SERIES_WIDTH) for depth in DEPTHS), *((1, width) for width in WIDTHS)]))
"""(depth, width) of every cell; both series share the smallest network."""


@dataclass(frozen=True)
class Scale:
    """How large a study is where nothing else is said.

    Attributes:
        repeats: Seeds.
        epochs: Full-batch steps of training.
        refit_epochs: Steps of a refit by training.
        sizes: (depth, width) of the networks.
    """

    repeats: int
    epochs: int
    refit_epochs: int
    sizes: tuple[tuple[int, int], ...] = SIZES


SCALES = {
    "quick": Scale(2, 400, 100, ((1, 5), (4, 5), (1, 50))),
    "medium": Scale(10, 4000, 1000),
    "full": Scale(50, 60000, 7500),
}
"""By name: what shows that everything runs, what two cores finish in an evening, and the paper's own lengths."""


@dataclass(frozen=True)
class FragilityStudy(Settings):
    """The Iris study of Epifano et al., by their code's choices or with all of them put right.

    Attributes:
        mode: "corrected", or "as-published": the published code's choices, defects included.
        scale: "quick", "medium" or "full": how many seeds and steps where the next options do not say.
        repeats: Seeds per scheme; the scale's when not given.
        epochs: Full-batch steps of training; the scale's when not given, the paper has 60000.
        refit_epochs: Steps of a refit where Newton's method does not apply; the paper has 7500.
        removals: Training examples of largest loss, removed one at a time; the mode's when not given.
        schemes: Keys of `SCHEMES`.
        only: Networks as depth x width, "1x5" say, where not all of the scale's are wanted.
        seed: The first seed.
        test_example: Id of the test example; the one with the largest leave-one-out loss when not given.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    mode: str = "corrected"
    scale: str = "medium"
    repeats: int | None = None
    epochs: int | None = None
    refit_epochs: int | None = None
    removals: int | None = None
    schemes: tuple[str, ...] = DEFAULT_SCHEMES
    only: tuple[str, ...] = ()
    seed: int = 0
    test_example: int | None = None

    ONLY_DEFAULT_SCHEMES: ClassVar[bool] = False
    """Whether all modes train networks as choices of the published code, which are choices about these schemes."""

    def __post_init__(self) -> None:
        self.check_known(mode=MODES, scale=SCALES)
        self.check_at_least(repeats=1, epochs=1, refit_epochs=1, removals=1)
        self.networks()
        for network in self.only:
            _size(network)
        unpublished = [scheme for scheme in self.schemes if scheme not in DEFAULT_SCHEMES]
        if unpublished and (self.mode == "as-published" or self.ONLY_DEFAULT_SCHEMES):
            where = "here" if self.ONLY_DEFAULT_SCHEMES else "as published"
            raise ValueError(
                f"{where} there are the schemes {', '.join(DEFAULT_SCHEMES)}, got {', '.join(unpublished)}"
            )

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(depth, width) of the networks."""
        return tuple(_size(network) for network in self.only) or SCALES[self.scale].sizes

    def networks(self) -> Study:
        """The settings that all cells share; its depth and width are not used."""
        scale = SCALES[self.scale]
        said = {name: getattr(self, name) for name in ("repeats", "epochs", "refit_epochs")}
        own: dict[str, Any] = {name: value or getattr(scale, name) for name, value in said.items()}
        return Study(
            **own,
            removals=self.removals or choices_of(self.mode).points,
            schemes=self.schemes,
            seed=self.seed,
            test_example=self.test_example,
        )

    def configuration(self, study: str = "fragility") -> dict[str, Any]:
        """What a result folder belongs to: the numbers that the scale came to, and the mode.

        Networks can be added, and the default schemes, which are all described in it.
        """
        described = replace(self.networks(), schemes=tuple(dict.fromkeys((*DEFAULT_SCHEMES, *self.schemes))))
        added = ("depth", "width", "schemes")
        settings = {key: value for key, value in described.configuration().items() if key not in added}
        return {"study": study, "mode": self.mode, **settings}


def _size(network: str) -> tuple[int, int]:
    """(depth, width) of "1x5".

    Raises:
        ValueError: If it is something else.
    """
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", network)
    if found is None:
        raise ValueError(f"a network is named by depth x width, 1x5 say, got {network!r}")
    return int(found[1]), int(found[2])
