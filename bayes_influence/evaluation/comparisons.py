"""Do schemes differ: tests between groups of seeds, each with its effect size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from statsmodels.stats.oneway import anova_oneway


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
        return {
            "test": self.test,
            "statistic": self.statistic,
            "p_value": self.p_value,
            "df": ", ".join(f"{df:g}" for df in self.df),
            "effect": self.effect,
            "effect_size": self.effect_size,
            "groups": ", ".join(self.groups),
            "sizes": ", ".join(map(str, self.sizes)),
            "note": self.note,
        }


def one_way_anova(groups: Mapping[str, ArrayLike]) -> Comparison:
    """One-way analysis of variance with equal variances, as Epifano et al. use it between schemes and sizes.

    Its effect size is eta^2, the share of the variance that the groups explain. It assumes independent groups; schemes
    run on the same seeds are paired. NaN values, and groups with fewer than two others, are left out and noted; with
    fewer than two groups left, or none that varies, the result is NaN and the note says why.

    Args:
        groups: Values of shape (n,) by group.

    Raises:
        ValueError: If there are fewer than two groups.
    """
    kept, note = _usable(groups)
    if len(kept) < 2:
        return _undefined("one-way ANOVA", "eta^2", kept, f"{note}; two groups of two values are needed")
    if all(np.ptp(values) == 0 for values in kept.values()):
        return _undefined("one-way ANOVA", "eta^2", kept, _join(note, "no group varies"))
    result = anova_oneway(list(kept.values()), use_var="equal")
    between, within = result.df
    explained = result.statistic * between / (result.statistic * between + within)
    return Comparison(
        test="one-way ANOVA",
        statistic=float(result.statistic),
        p_value=float(result.pvalue),
        df=(float(between), float(within)),
        effect="eta^2",
        effect_size=float(explained),
        groups=tuple(kept),
        sizes=_sizes(kept),
        note=note,
    )


def _usable(groups: Mapping[str, ArrayLike]) -> tuple[dict[str, Float[np.ndarray, " n"]], str]:
    """The groups that have two values besides NaN, and a note on what was left out."""
    if len(groups) < 2:
        raise ValueError(f"a comparison needs at least two groups, got {list(groups)}")
    arrays = {name: np.asarray(values, dtype=np.float64).ravel() for name, values in groups.items()}
    defined = {name: values[~np.isnan(values)] for name, values in arrays.items()}
    dropped = sum(_sizes(arrays)) - sum(_sizes(defined))
    small = [name for name, values in defined.items() if len(values) < 2]
    return {name: values for name, values in defined.items() if name not in small}, _join(
        f"{dropped} NaN left out" if dropped else "",
        f"fewer than two values in {', '.join(small)}" if small else "",
    )


def _undefined(test: str, effect: str, groups: Mapping[str, np.ndarray], note: str) -> Comparison:
    """A test that the values do not allow."""
    return Comparison(test, np.nan, np.nan, (), effect, np.nan, tuple(groups), _sizes(groups), note)


def _sizes(groups: Mapping[str, np.ndarray]) -> tuple[int, ...]:
    return tuple(len(values) for values in groups.values())


def _join(*notes: str) -> str:
    return "; ".join(note for note in notes if note)
