"""Does a quantity grow or fall with depth, width or another size."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike

from bayes_influence.evaluation.comparisons import (
    NOT_ENOUGH,
    Comparison,
    join_notes,
    sizes_of,
    undefined,
    usable_groups,
)
from bayes_influence.evaluation.paired import complete_blocks

MIN_PAGE_SIZES = 3
"""Page's test orders at least three sizes."""


def monotone_trend(by_size: Mapping[float, ArrayLike]) -> Comparison:
    """Mann-Kendall test that values rise or fall with size, seeds of different sizes independent.

    The statistic is Theil and Sen's slope (value per unit of size, robust to outliers), the effect size Kendall's
    tau-b between size and value, whose two-sided p-value is reported. ANOVA over sizes ignores their order and needs
    more seeds to see the same trend.

    Args:
        by_size: Values of shape (seeds,) by size, such as {5: ..., 8: ..., 14: ...}; any order.

    Returns:
        The outcome; NaN with a note where too few sizes have values or all values are equal.

    Raises:
        ValueError: If there are fewer than two sizes.
    """
    test, effect = "Mann-Kendall trend", "tau-b"
    kept, note = usable_groups({str(size): by_size[size] for size in sorted(by_size)})
    if len(kept) < 2:
        return undefined(test, effect, kept, join_notes(note, NOT_ENOUGH))
    values = np.concatenate(list(kept.values()))
    if np.ptp(values) == 0:
        return undefined(test, effect, kept, join_notes(note, "all values are equal"))
    sizes = np.repeat([float(size) for size in kept], sizes_of(kept))
    tau = scipy.stats.kendalltau(sizes, values)
    return Comparison(
        test=test,
        statistic=float(scipy.stats.theilslopes(values, sizes).slope),
        p_value=float(tau.pvalue),
        df=(),
        effect=effect,
        effect_size=float(tau.statistic),
        groups=tuple(kept),
        sizes=sizes_of(kept),
        note=note,
    )


def page_trend(by_size: Mapping[float, ArrayLike]) -> Comparison:
    """Page's test of a trend over sizes within seeds, for designs in which a seed means the same at every size.

    The statistic is Page's L of the direction found, the effect size the mean over seeds of Spearman's correlation
    between size and value, negative for a fall. The p-value is two-sided: twice the smaller of the tests for a rise
    and for a fall.

    Args:
        by_size: Values of shape (seeds,) by size, the seeds in one order.

    Returns:
        The outcome; NaN with a note if fewer than two seeds are complete.

    Raises:
        ValueError: If there are fewer than three sizes, or they differ in length.
    """
    if len(by_size) < MIN_PAGE_SIZES:
        raise ValueError(f"Page's test needs at least three sizes, got {list(by_size)}; use monotone_trend for two")
    groups = {str(size): by_size[size] for size in sorted(by_size)}
    blocks, note = complete_blocks(groups)
    kept = dict(zip(groups, blocks.T, strict=True))
    if len(blocks) < 2:
        return undefined("Page trend", "mean Spearman", kept, join_notes(note, "fewer than two complete seeds"))
    rise, fall = (scipy.stats.page_trend_test(sign * blocks) for sign in (1, -1))
    found = rise if rise.pvalue <= fall.pvalue else fall
    return Comparison(
        test="Page trend",
        statistic=float(found.statistic),
        p_value=float(min(1.0, 2 * found.pvalue)),
        df=(),
        effect="mean Spearman",
        effect_size=_mean_rank_correlation(rise.statistic, *blocks.shape),
        groups=tuple(kept),
        sizes=(len(blocks),) * len(kept),
        note=note,
    )


def _mean_rank_correlation(page_l: float, seeds: int, sizes: int) -> float:
    """Mean Spearman correlation from Page's L (Page 1963): 12 L / (s (k^3 - k)) - 3 (k + 1) / (k - 1)."""
    return float(12 * page_l / (seeds * (sizes**3 - sizes)) - 3 * (sizes + 1) / (sizes - 1))
