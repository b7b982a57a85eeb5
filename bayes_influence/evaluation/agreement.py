"""How well estimated loss differences agree with those that retraining found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np
import scipy.stats
from jaxtyping import Float
from numpy.typing import ArrayLike

from bayes_influence.arguments import check_whole
from bayes_influence.evaluation import statistics
from bayes_influence.evaluation.intervals import Interval, mean_interval, two_level_bootstrap

MIN_POINTS = 3
"""Two points correlate perfectly by construction."""

MISS_RELATION_GAP = 0.25
"""Spearman - Pearson above which ranks agree while magnitudes do not."""

MISS_RELATION_SPEARMAN = 0.7
"""Spearman above which a low top-k overlap is a miss-relation."""

MISS_RELATION_OVERLAP = 0.4
"""Top-k overlap up to which a high Spearman is a miss-relation."""

STATISTICS = (
    "spearman",
    "pearson",
    "kendall",
    "weighted_kendall",
    "slope",
    "r2",
    "sign_agreement",
    "top_k_overlap",
)
"""The fields of `Agreement` that measure agreement, each NaN where it is not defined: functions of `statistics`."""

BOUNDS = {
    **dict.fromkeys(("spearman", "pearson", "kendall", "weighted_kendall"), (-1.0, 1.0)),
    **dict.fromkeys(("sign_agreement", "top_k_overlap", "absolute_spearman", "found", "accuracy"), (0.0, 1.0)),
    "r2": (-np.inf, 1.0),
}
"""The least and the most that a statistic or a share can be, which no interval goes beyond."""


@dataclass(frozen=True)
class Agreement:
    """Agreement of estimated with true loss differences over n removed examples. All statistics keep their sign.

    Attributes:
        n: Number of examples.
        spearman: Spearman's rank correlation.
        pearson: Pearson's correlation.
        kendall: Kendall's tau-b.
        weighted_kendall: Kendall's tau in which examples of large |true| weigh most, see `weighted_kendall`.
        slope: Of true on estimated through zero: 1 if the estimates have the right size, 2 if they are half of it.
        r2: 1 - sum (true - estimated)^2 / sum (true - mean)^2, the estimates at face value.
        sign_agreement: Share of the examples whose sign is right.
        top_k: k, of the next three.
        top_k_overlap: Share of the k largest |true| among the k largest |estimated|.
        top_k_null: What chance gives on average, k/n (hypergeometric).
        top_k_p_value: Probability of at least that overlap by chance.
        miss_relation: Ranks agree, magnitudes do not (Epifano et al., section 4.2): Spearman - Pearson > .25, or
            Spearman > .7 with an overlap of at most .4. False where the statistics are not defined; `note` says so.
        note: Why a statistic is NaN, empty if none is.
    """

    n: int
    spearman: float
    pearson: float
    kendall: float
    weighted_kendall: float
    slope: float
    r2: float
    sign_agreement: float
    top_k: int
    top_k_overlap: float
    top_k_null: float
    top_k_p_value: float
    miss_relation: bool
    note: str = ""

    def to_row(self) -> dict[str, float | int | bool | str]:
        """The fields by name, as a row of a table."""
        return asdict(self)


def agreement(estimated: ArrayLike, true: ArrayLike, top_k: int | None = None) -> Agreement:
    """Agreement of estimated with true loss differences.

    One run that went wrong must not end a study of hundreds: where numbers are constant or not finite, the statistics
    they leave undefined are NaN and `note` says why. What can only be a mistake in the call is an error.

    Args:
        estimated: Estimated loss differences, shape (n,).
        true: True loss differences of the same examples in the same order, shape (n,).
        top_k: k of the overlap; a quarter of the examples, at most ten, when not given.

    Raises:
        TypeError: If they are no real numbers, or k is no whole one.
        ValueError: If the shapes differ, there are fewer than 3 examples, or k is not in 1..n.
    """
    estimated, true = _pair(estimated, true)
    n = len(true)
    k = default_top_k(n) if top_k is None else top_k
    check_whole(top_k=k)
    if not 1 <= k <= n:
        raise ValueError(f"top_k must lie between 1 and the number of examples, {n}, got {top_k}")
    note = _why_undefined(estimated, true)
    measured = _measure(estimated, true, k)
    return Agreement(
        n=n,
        **measured,
        top_k=k,
        top_k_null=k / n,
        top_k_p_value=_overlap_p_value(measured["top_k_overlap"], k, n),
        miss_relation=is_miss_relation(measured["spearman"], measured["pearson"], measured["top_k_overlap"]),
        note=note,
    )


def agreement_by_run(estimated: ArrayLike, true: ArrayLike, top_k: int | None = None) -> tuple[Agreement, ...]:
    """One `Agreement` per run, for estimated and true loss differences of shape (runs, n).

    Raises:
        ValueError: If the shapes differ, or as `agreement` does.
    """
    shapes = np.shape(estimated), np.shape(true)
    if shapes[0] != shapes[1] or len(shapes[0]) != 2:
        raise ValueError(f"estimated and true must both have shape (runs, n), got {shapes[0]} and {shapes[1]}")
    rows = zip(np.asarray(estimated), np.asarray(true), strict=True)
    return tuple(agreement(run, truth, top_k) for run, truth in rows)


@dataclass(frozen=True)
class AgreementSummary:
    """Agreement over the runs (seeds) of one scheme.

    Attributes:
        n_runs: Number of runs.
        n: Number of examples in the run with the fewest.
        intervals: Mean over runs of each of `STATISTICS` with its interval, Student's t from `summarise`, bootstrapped
            from `bootstrap_summary`; runs in which it is not defined are counted in `undefined`.
        miss_relations: Number of runs with the flag.
        notes: How many runs have each note.
    """

    n_runs: int
    n: int
    intervals: Mapping[str, Interval]
    miss_relations: int
    notes: Mapping[str, int]

    def to_row(self) -> dict[str, float | int]:
        """One row of a table: `<statistic>`, `_low`, `_high` and `_undefined` for each, and the counts."""
        row: dict[str, float | int] = {"n_runs": self.n_runs}
        for name, interval in self.intervals.items():
            row |= {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}
            row |= {f"{name}_undefined": interval.undefined}
        return row | {"miss_relations": self.miss_relations}


def statistic_interval(name: str, values: ArrayLike, level: float = 0.95) -> Interval:
    """Mean over seeds of a statistic of this name, with its t interval within the statistic's bounds."""
    return mean_interval(values, level, BOUNDS.get(name, (-np.inf, np.inf)))


def summarise(agreements: Sequence[Agreement], level: float = 0.95) -> AgreementSummary:
    """Means over runs with Student's t intervals over the runs.

    Raises:
        ValueError: If there is no run, or the level is not between 0 and 1.
    """
    if not agreements:
        raise ValueError("a summary needs the agreement of at least one run, got none")
    notes = [one.note for one in agreements if one.note]
    return AgreementSummary(
        n_runs=len(agreements),
        n=min(one.n for one in agreements),
        intervals={
            name: statistic_interval(name, [getattr(one, name) for one in agreements], level) for name in STATISTICS
        },
        miss_relations=sum(one.miss_relation for one in agreements),
        notes={note: notes.count(note) for note in dict.fromkeys(notes)},
    )


def bootstrap_summary(
    estimated: ArrayLike,
    true: ArrayLike,
    top_k: int | None = None,
    level: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> AgreementSummary:
    """Means over runs, with intervals that cover the choice of the runs and of the removed examples.

    Args:
        estimated: Estimated loss differences, shape (runs, n); with one run its points alone are resampled.
        true: True loss differences, of the same shape.
        top_k: As in `agreement`.
        level: Nominal coverage.
        n_resamples: Of the two-level bootstrap, see `two_level_bootstrap`.
        seed: Of the resampling.

    Raises:
        ValueError: As `agreement_by_run` does, or if the level is not between 0 and 1.
    """
    runs = agreement_by_run(estimated, true, top_k)
    intervals = {
        name: two_level_bootstrap(estimated, true, statistic, level, n_resamples, seed)
        for name, statistic in _by_name(runs[0].top_k).items()
    }
    return replace(summarise(runs, level), intervals=intervals)


def is_miss_relation(spearman: float, pearson: float, top_k_overlap: float) -> bool:
    """Whether ranks agree while magnitudes do not; False if a statistic it needs is NaN."""
    apart = spearman - pearson > MISS_RELATION_GAP
    misplaced = spearman > MISS_RELATION_SPEARMAN and top_k_overlap <= MISS_RELATION_OVERLAP
    return bool(apart or misplaced)


def default_top_k(n: int) -> int:
    """A quarter of the examples, at least one and at most ten: chance overlap stays at a quarter."""
    return max(1, min(10, n // 4))


def _measure(estimated: Float[np.ndarray, " n"], true: Float[np.ndarray, " n"], top_k: int) -> dict[str, float]:
    """All of `STATISTICS`; NaN throughout if a number is not finite."""
    if not (np.isfinite(estimated).all() and np.isfinite(true).all()):
        return dict.fromkeys(STATISTICS, np.nan)
    return {name: float(statistic(estimated, true)) for name, statistic in _by_name(top_k).items()}


def _by_name(top_k: int) -> dict[str, statistics.Statistic]:
    """The functions behind `STATISTICS`, in that order."""
    plain = {name: getattr(statistics, name) for name in STATISTICS if name != "top_k_overlap"}
    return {**plain, "top_k_overlap": partial(statistics.top_k_overlap, top_k=top_k)}


def _overlap_p_value(overlap: float, top_k: int, n: int) -> float:
    """P(X >= overlap * k) for X hypergeometric: k draws out of n, k of which count. Half places round down."""
    if np.isnan(overlap):
        return np.nan
    places = np.floor(overlap * top_k + 1e-9)
    return float(scipy.stats.hypergeom.sf(places - 1, n, top_k, top_k))


def _why_undefined(estimated: Float[np.ndarray, " n"], true: Float[np.ndarray, " n"]) -> str:
    """Reasons for NaN, in words."""
    sides = {"estimated": estimated, "true": true}
    infinite = {name: int((~np.isfinite(values)).sum()) for name, values in sides.items()}
    reasons = [f"{count} of {len(true)} {name} differences are not finite" for name, count in infinite.items() if count]
    if not reasons:
        reasons = [f"all {name} differences are equal" for name, values in sides.items() if np.ptp(values) == 0]
    return "; ".join(reasons)


def _pair(estimated: ArrayLike, true: ArrayLike) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Both sides as equally long float64 vectors."""
    sides = [np.asarray(side) for side in (estimated, true)]
    for name, side in zip(("estimated", "true"), sides, strict=True):
        if side.dtype.kind not in "biuf":
            raise TypeError(f"{name} loss differences must be real numbers, got an array of {side.dtype}")
    left, right = (side.astype(np.float64) for side in sides)
    if left.ndim != 1 or left.shape != right.shape:
        raise ValueError(
            f"estimated and true must be vectors of one length (n,), got shapes {left.shape} and {right.shape}"
        )
    if len(left) < MIN_POINTS:
        raise ValueError(f"agreement needs at least {MIN_POINTS} removed examples, got {len(left)}; remove more")
    return left, right
