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
