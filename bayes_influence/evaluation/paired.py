"""Do schemes differ on the same seeds: paired tests, corrected for their number.

Schemes that share seeds share initialisation and removed examples, so a seed is a block and its values are paired.
A pair is compared in the seeds in which both groups have a value; all groups together in those in which all have one,
groups without any value left out. What is left out is noted.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd
import scipy.stats
from jaxtyping import Float
from numpy.typing import ArrayLike
from statsmodels.stats.multitest import multipletests

from bayes_influence.evaluation.comparisons import Comparison, join_notes, sizes_of, undefined
from bayes_influence.evaluation.intervals import mean_interval

MIN_FRIEDMAN_GROUPS = 3
"""With two groups Friedman's test is the sign test; `paired_comparisons` has a stronger one."""


def friedman(groups: Mapping[str, ArrayLike]) -> Comparison:
    """Friedman's rank test that no group is systematically higher on the same seeds.

    The effect size is Kendall's W = chi^2 / (seeds (groups - 1)): 0 no, 1 perfect agreement of the seeds on the order.

    Args:
        groups: Values of shape (seeds,) by group, the seeds in one order.

    Returns:
        The outcome; NaN with a note if fewer than three groups have values, fewer than two seeds are complete, or every
        seed has all groups equal.

    Raises:
        ValueError: If there are fewer than three groups, or they differ in length.
    """
    if len(groups) < MIN_FRIEDMAN_GROUPS:
        raise ValueError(f"Friedman's test needs three groups, got {list(groups)}; use paired_comparisons for two")
    kept, note = _complete_seeds(groups)
    values = np.array(list(kept.values()))
    reason = None
    if len(kept) < MIN_FRIEDMAN_GROUPS:
        reason = "fewer than three groups have values"
    elif values.shape[1] < 2:
        reason = "fewer than two complete seeds"
    elif (np.ptp(values, axis=0) == 0).all():
        reason = "all groups are equal in every seed"
    if reason:
        return undefined("Friedman", "Kendall's W", kept, join_notes(note, reason))
    result = scipy.stats.friedmanchisquare(*values)
    return Comparison(
        test="Friedman",
        statistic=float(result.statistic),
        p_value=float(result.pvalue),
        df=(len(kept) - 1.0,),
        effect="Kendall's W",
        effect_size=float(result.statistic / (values.shape[1] * (len(kept) - 1))),
        groups=tuple(kept),
        sizes=sizes_of(kept),
        note=note,
    )


def paired_comparisons(groups: Mapping[str, ArrayLike], level: float = 0.95) -> pd.DataFrame:
    """Every pair of groups by Wilcoxon's signed-rank test, the p-values corrected by Holm's method.

    With n seeds no two-sided p-value is below 2^(1-n): six seeds are the fewest that can reach .05 for one pair, and
    ten pairs need ten.

    Args:
        groups: Values of shape (seeds,) by group, the seeds in one order.
        level: Coverage of the interval of the mean difference.

    Returns:
        One row per pair: `first`, `second`, `n` (seeds with both), `mean_difference` (first minus second) with
        Student's `low` and `high`, `d_z` (mean over standard deviation of the differences), `rank_biserial`
        ((favourable - unfavourable rank sum) / total), `p_value` and `p_holm`. A pair without any difference has p = 1,
        rank_biserial 0 and d_z NaN; with fewer than two seeds that have both all but the mean are NaN.

    Raises:
        ValueError: If there are fewer than two groups, they differ in length, or the level is not between 0 and 1.
    """
    arrays = _paired_arrays(groups)
    table = pd.DataFrame(
        [_paired_row(first, second, arrays[first] - arrays[second], level) for first, second in combinations(arrays, 2)]
    )
    defined = table["p_value"].notna()
    table["p_holm"] = np.nan
    if defined.any():
        table.loc[defined, "p_holm"] = multipletests(table.loc[defined, "p_value"], method="holm")[1]
    return table


def _paired_arrays(groups: Mapping[str, ArrayLike]) -> dict[str, Float[np.ndarray, " seeds"]]:
    """The groups as arrays, if there are two of one length."""
    if len(groups) < 2:
        raise ValueError(f"a comparison needs at least two groups, got {list(groups)}")
    arrays = {name: np.asarray(values, dtype=np.float64).ravel() for name, values in groups.items()}
    lengths = {name: len(values) for name, values in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"paired groups hold one value per seed, for the same seeds, got lengths {lengths}")
    return arrays


def _complete_seeds(groups: Mapping[str, ArrayLike]) -> tuple[dict[str, Float[np.ndarray, " seeds"]], str]:
    """The groups that have values, in the seeds in which all of them have one, and a note on the others."""
    arrays = _paired_arrays(groups)
    missing = {name: np.isnan(values) for name, values in arrays.items()}
    empty = [name for name in arrays if missing[name].all()]
    kept = {name: values for name, values in arrays.items() if name not in empty}
    complete = ~np.logical_or.reduce([missing[name] for name in kept]) if kept else np.array([], dtype=bool)
    left_out = int((~complete).sum())
    return {name: values[complete] for name, values in kept.items()}, join_notes(
        f"no value in {', '.join(empty)}" if empty else "",
        f"{left_out} seeds with NaN left out" if left_out else "",
    )


def _paired_row(first: str, second: str, differences: Float[np.ndarray, " seeds"], level: float) -> dict[str, object]:
    """One pair's row, before the correction; NaN is left out."""
    differences = differences[~np.isnan(differences)]
    interval = mean_interval(differences, level)
    deviation = differences.std(ddof=1) if len(differences) > 1 else 0.0
    return {
        "first": first,
        "second": second,
        "n": len(differences),
        "mean_difference": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "d_z": float(differences.mean() / deviation) if deviation > 0 else np.nan,
        "rank_biserial": _rank_biserial(differences),
        "p_value": _signed_rank_p_value(differences),
    }


def _rank_biserial(differences: Float[np.ndarray, " seeds"]) -> float:
    """Signed share of the rank sum of the differences that are not zero; 0 where nothing differs."""
    if len(differences) < 2:
        return np.nan
    moved = differences[differences != 0]
    ranks = scipy.stats.rankdata(np.abs(moved))
    return float((ranks * np.sign(moved)).sum() / ranks.sum()) if len(moved) else 0.0


def _signed_rank_p_value(differences: Float[np.ndarray, " seeds"]) -> float:
    """Wilcoxon's two-sided p-value; 1 where nothing differs."""
    if len(differences) < 2:
        return np.nan
    if not differences.any():
        return 1.0
    return float(scipy.stats.wilcoxon(differences).pvalue)
