"""Do schemes differ, and do sizes matter: the tests of a comparison, paired over seeds, as tables and in words."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, product

import numpy as np
import pandas as pd

from bayes_influence.evaluation.paired import MIN_FRIEDMAN_GROUPS, friedman, paired_comparisons
from bayes_influence.evaluation.trends import monotone_trend

TESTED = {
    "spearman": "Spearman",
    "pearson": "Pearson",
    "loss_hessian_max": "largest eigenvalue of the loss",
}
"""Columns of the results that are tested, and what they are called."""

OF_NETWORK = ("loss_hessian_max",)
"""Those that are properties of the network, the same for every estimator of a Bayesian one."""

ALPHA = 0.05
"""Corrected p-value below which schemes are said to differ."""


def scheme_tests(results: pd.DataFrame, values: Sequence[str] = tuple(TESTED)) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Friedman's test between the schemes at each size, and every pair with Holm's correction.

    Schemes run from the same seeds, so a seed is a block: initialisation and order of removal are shared.

    Args:
        results: One row per depth, width, scheme, estimator and seed.
        values: Columns that are tested.

    Returns:
        A table with one row per value and size, and one with a row per pair as well; the first is empty for fewer than
        three groups, the second for fewer than two.
    """
    omnibus, pairs = [], []
    sizes = results[["depth", "width"]].drop_duplicates().sort_values(["depth", "width"])
    for depth, width in sizes.itertuples(index=False, name=None):
        at_size = results.query("depth == @depth and width == @width")
        for value in values:
            groups = _by_seed(_series(at_size, value), value)
            keys = {"value": value, "depth": int(depth), "width": int(width)}
            if len(groups) >= MIN_FRIEDMAN_GROUPS:
                omnibus.append(keys | friedman(groups).to_row())
            if len(groups) >= 2:
                pairs.append(paired_comparisons(groups).assign(value=value, depth=int(depth), width=int(width)))
    return pd.DataFrame(omnibus), pd.concat(pairs, ignore_index=True) if pairs else pd.DataFrame()


def size_trends(results: pd.DataFrame, values: Sequence[str] = tuple(TESTED)) -> pd.DataFrame:
    """Whether values rise or fall with depth at each width, and with width at each depth, for every scheme.

    Returns:
        One row per value, axis, held size and scheme: Mann and Kendall's test; empty where no size varies.
    """
    rows = []
    for value, (axis, held) in product(values, (("depth", "width"), ("width", "depth"))):
        for (at, name), part in _series(results, value).groupby([held, "group"], sort=False):
            if part[axis].nunique() >= 2:
                sizes = sorted(float(size) for size in part[axis].unique())
                by_size = {size: part.loc[part[axis] == size, value].to_numpy() for size in sizes}
                keys = {"value": value, "axis": axis, "at": f"{held} {at}", "scheme": name}
                rows.append(keys | monotone_trend(by_size).to_row())
    return pd.DataFrame(rows)


def in_words(omnibus: pd.DataFrame, pairs: pd.DataFrame, trends: pd.DataFrame) -> list[str]:
    """One sentence per value and size on the schemes, and one per value, scheme and axis on the sizes."""
    sentences = []
    if len(pairs):
        sentences += [_on_schemes(omnibus, own) for _, own in pairs.groupby(["value", "depth", "width"], sort=False)]
    for _, row in trends.iterrows():
        where = f"{TESTED[row['value']]}, {row['scheme']}, {row['at']}"
        if np.isnan(row["p_value"]):
            sentences.append(f"{where}: no trend test over {row['axis']} ({row['note']}).")
            continue
        way = "rises" if row["effect_size"] > 0 else "falls"
        said = f"{way} with {row['axis']}" if row["p_value"] < ALPHA else f"no trend over {row['axis']} shown"
        sentences.append(f"{where}: {said} (tau {row['effect_size']:.2f}, p = {row['p_value']:.2g}).")
    return sentences


def _on_schemes(omnibus: pd.DataFrame, pairs: pd.DataFrame) -> str:
    value, depth, width = (pairs[name].iloc[0] for name in ("value", "depth", "width"))
    size = f", depth {depth}, width {width}" if width else ""
    tested, left_out = _tested_pairs(pairs)
    seeds = int(pairs["n"].max())
    start = f"{TESTED[value]}{size}, {_seed_range(tested if len(tested) else pairs)} seeds: "
    own = omnibus.query("value == @value and depth == @depth and width == @width") if len(omnibus) else omnibus
    if len(own):
        row = own.iloc[0]
        start += (
            f"Friedman not defined ({row['note']}); "
            if np.isnan(row["p_value"])
            else f"Friedman p = {row['p_value']:.2g}, Kendall's W {row['effect_size']:.2f}; "
        )
    if tested.empty:
        return f"{start}no test between pairs: no two of {', '.join(left_out)} have values in the same two seeds."
    if left_out:
        start += f"{', '.join(left_out)} left out for want of values; "
    apart, count = tested["p_holm"] < ALPHA, int(tested["p_holm"].notna().sum())
    if not apart.any() and least_corrected_p(seeds, count) >= ALPHA:
        return (
            f"{start}nothing could be shown with so few seeds: of {count} pair{'s' * (count > 1)} the smallest "
            f"corrected p that {seeds} seeds can have is {least_corrected_p(seeds, count):.2g}; at least "
            f"{_seeds_needed(count)} seeds are needed."
        )
    if not apart.any():
        return f"{start}no pair of schemes is shown to differ (smallest corrected p {tested['p_holm'].min():.2g})."
    means = pd.concat(
        [tested.groupby("first")["mean_difference"].sum(), -tested.groupby("second")["mean_difference"].sum()]
    )
    order = means.groupby(level=0).sum().sort_values(ascending=False)
    alike = [f"{row['first']} and {row['second']}" for _, row in tested[~apart].iterrows()]
    return (
        f"{start}{int(apart.sum())} of {len(tested)} pairs differ (corrected p < {ALPHA:g}), by mean in the order "
        f"{' > '.join(order.index)}" + (f"; not shown to differ: {'; '.join(alike)}." if alike else ".")
    )


def _tested_pairs(pairs: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The pairs of schemes that are in a test at all, and the schemes that are in none."""
    ends = ["first", "second"]
    known = set(pairs.loc[pairs["p_holm"].notna(), ends].to_numpy().ravel())
    left_out = [name for name in dict.fromkeys(pairs[ends].to_numpy().ravel()) if name not in known]
    return pairs[pairs[ends].isin(known).all(axis=1)], left_out


def _seed_range(pairs: pd.DataFrame) -> str:
    """In how many seeds pairs are compared."""
    fewest, most = int(pairs["n"].min()), int(pairs["n"].max())
    return str(most) if fewest == most else f"{fewest} to {most}"


def least_corrected_p(seeds: int, pairs: int) -> float:
    """The smallest p-value, corrected by Holm's method, that pairs of schemes can have: pairs 2^(1 - seeds), at most 1.

    Args:
        seeds: Of each scheme.
        pairs: That are tested.
    """
    return min(1.0, pairs * 2.0 ** (1 - seeds))


def _seeds_needed(pairs: int) -> int:
    """The fewest seeds with which a pair can be shown to differ."""
    return next(seeds for seeds in count(2) if least_corrected_p(seeds, pairs) < ALPHA)


def _series(results: pd.DataFrame, value: str) -> pd.DataFrame:
    """The rows that are compared, with a `group`: the scheme, and the estimator where a network has several."""
    if value in OF_NETWORK:
        return results.drop_duplicates(["depth", "width", "scheme", "seed"]).assign(group=lambda rows: rows["scheme"])
    plain = results["estimator"] == "influence"
    return results.assign(group=results["scheme"].where(plain, results["scheme"] + " (" + results["estimator"] + ")"))


def _by_seed(results: pd.DataFrame, value: str) -> dict[str, np.ndarray]:
    """Values by group, the seeds in one order; NaN where a group lacks one."""
    table = results.pivot_table(index="seed", columns="group", values=value, dropna=False)
    return {name: table[name].to_numpy() for name in dict.fromkeys(results["group"])}
