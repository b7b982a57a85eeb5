"""Do schemes differ: tests between independent groups of seeds, each with its effect size.

Values that are NaN, and groups with fewer than two others, are left out and noted; where too little is left to test,
or nothing varies, the result is NaN and the note says why: at the end of a long study that is worth more than an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from statsmodels.stats.oneway import anova_oneway

NOT_ENOUGH = "two groups of two values are needed"

COMPARED = ("test", "statistic", "p_value", "df", "effect", "effect_size", "groups", "sizes", "note")
"""Columns of a table of comparisons."""


@dataclass(frozen=True)
class Comparison:
    """The outcome of one test.

    Attributes:
        test: Its name.
        statistic: Its statistic; NaN where it is not defined.
        p_value: Its p-value; NaN where it is not defined.
        df: Degrees of freedom, empty if it has none.
        effect: Name of the effect size.
        effect_size: Its value.
        groups: What was compared.
        sizes: Values per group, NaN left out.
        note: Why it is not defined, or what was left out; else empty.
    """

    test: str
    statistic: float
    p_value: float
    df: tuple[float, ...]
    effect: str
    effect_size: float
    groups: tuple[str, ...]
    sizes: tuple[int, ...]
    note: str = ""

    def to_row(self) -> dict[str, float | str]:
        """One row of a table; groups, sizes and degrees of freedom as text."""
        values = {name: getattr(self, name) for name in COMPARED}
        texts = {"df": ", ".join(f"{df:g}" for df in self.df), "groups": ", ".join(self.groups)}
        return values | texts | {"sizes": ", ".join(map(str, self.sizes))}


def one_way_anova(groups: Mapping[str, ArrayLike]) -> Comparison:
    """One-way analysis of variance with equal variances, as Epifano et al. use it between schemes and sizes.

    The effect size is eta^2, the share of the variance that the groups explain. It assumes independent groups;
    schemes run on the same seeds are paired, see `friedman`.

    Args:
        groups: Values of shape (n,) by group.

    Raises:
        ValueError: If there are fewer than two groups.
    """
    test = "one-way ANOVA"
    kept, note = usable_groups(groups)
    if len(kept) < 2:
        return undefined(test, "eta^2", kept, join_notes(note, NOT_ENOUGH))
    if all(np.ptp(values) == 0 for values in kept.values()):
        return undefined(test, "eta^2", kept, join_notes(note, f"no variance in {', '.join(kept)}"))
    result = anova_oneway(list(kept.values()), use_var="equal")
    between, within = (float(df) for df in result.df)
    return Comparison(
        test=test,
        statistic=float(result.statistic),
        p_value=float(result.pvalue),
        df=(between, within),
        effect="eta^2",
        effect_size=float(result.statistic * between / (result.statistic * between + within)),
        groups=tuple(kept),
        sizes=sizes_of(kept),
        note=note,
    )


def usable_groups(groups: Mapping[str, ArrayLike]) -> tuple[dict[str, Float[np.ndarray, " n"]], str]:
    """The groups that have two values besides NaN, and a note on what was left out.

    Raises:
        ValueError: If there are fewer than two groups.
    """
    if len(groups) < 2:
        raise ValueError(f"a comparison needs at least two groups, got {list(groups)}")
    arrays = {name: np.asarray(values, dtype=np.float64).ravel() for name, values in groups.items()}
    defined = {name: values[~np.isnan(values)] for name, values in arrays.items()}
    dropped = sum(sizes_of(arrays)) - sum(sizes_of(defined))
    small = [name for name, values in defined.items() if len(values) < 2]
    return {name: values for name, values in defined.items() if name not in small}, join_notes(
        f"{dropped} NaN left out" if dropped else "",
        f"fewer than two values in {', '.join(small)}" if small else "",
    )


def undefined(test: str, effect: str, groups: Mapping[str, np.ndarray], note: str) -> Comparison:
    """The outcome of a test that the values do not allow."""
    return Comparison(test, np.nan, np.nan, (), effect, np.nan, tuple(groups), sizes_of(groups), note)


def sizes_of(groups: Mapping[str, np.ndarray]) -> tuple[int, ...]:
    """Values per group."""
    return tuple(len(values) for values in groups.values())


def join_notes(*notes: str) -> str:
    """The notes that say something, one after the other."""
    return "; ".join(note for note in notes if note)
