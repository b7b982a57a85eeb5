"""One sentence on whether influence estimates can be trusted, derived from stated thresholds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from bayes_influence.evaluation.agreement import Agreement, AgreementSummary
from bayes_influence.evaluation.intervals import Interval

GOOD_CORRELATION = 0.9
"""Spearman and Pearson from which the order can be relied on."""

FAIR_CORRELATION = 0.5
"""Spearman from which the order is at least an indication."""

SLOPE_TOLERANCE = 0.15
"""How far the slope of the truth on the estimates may be from 1 for their size to be right."""

MIN_CEILING = 0.5
"""Ceiling below which retraining is too noisy to judge an estimate by."""

MAX_CONTROL_DRIFT = 1.0
"""Drift of the control, in units of the typical effect, from which the truth is mostly drift."""


class Grade(StrEnum):
    """What an estimate is good for."""

    TRUSTWORTHY = "trustworthy"
    ORDER_ONLY = "order only"
    INDICATIVE = "indicative"
    MISS_RELATION = "miss-relation"
    UNTRUSTWORTHY = "untrustworthy"
    REVERSED = "reversed"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Verdict:
    """A grade and its reason.

    Attributes:
        grade: What the estimate is good for.
        sentence: The same in plain words, with the figures behind it.
    """

    grade: Grade
    sentence: str


@dataclass(frozen=True)
class _Evidence:
    """What a verdict rests on: the correlations that can be relied on, how high they may be, how to write them.

    `at_best` is the lower one of the two correlations as estimated, whatever their intervals.
    """

    spearman: float
    most_spearman: float
    highest_spearman: float
    pearson: float
    slope: float
    at_best: float
    removals: str
    miss_relation: bool
    shown: str
    note: str


def verdict(
    found: Agreement | AgreementSummary,
    ceiling: float | None = None,
    control_drift: float | None = None,
    runs: str | None = None,
) -> Verdict:
    """Whether the estimates can be trusted.

    With several runs, the lower ends of the intervals of Spearman and Pearson must reach the thresholds (the upper end
    of Spearman's for the verdict of a wrong sign), and the miss-relation counts when more than half of the runs have
    it. Where Spearman's interval reaches from a useless to a useful order there are too few runs or removals to say
    which: of one run it is Bonett and Wright's (2000), of several Student's t over the runs. With a ceiling the
    thresholds on good correlations are taken as shares of it.

    Args:
        found: The agreement of one run, or of several.
        ceiling: Correlation that a perfect estimate would reach, see `retraining_ceiling`.
        control_drift: |loss difference| of retraining with nothing removed, over the median |loss difference| of a
            removal.
        runs: What the several runs are, with their number: "2 test examples" say.

    Raises:
        ValueError: If the ceiling is not between 0 and 1, or the drift is negative.
    """
    if ceiling is not None and not 0 <= ceiling <= 1:
        raise ValueError(f"a ceiling is a correlation between 0 and 1, got {ceiling}")
    if control_drift is not None and not control_drift >= 0:
        raise ValueError(f"the control's drift is a size, at least 0, got {control_drift}")
    evidence = _evidence(found, runs)
    return _undecided(evidence, ceiling, control_drift) or _decided(evidence, 1.0 if ceiling is None else ceiling)


def _undecided(evidence: _Evidence, ceiling: float | None, control_drift: float | None) -> Verdict | None:
    """Reasons why nothing can be said about the estimate."""
    reason = None
    if np.isnan(evidence.spearman) or np.isnan(evidence.pearson):
        reason = evidence.note or "the correlations are not defined"
    elif control_drift is not None and control_drift >= MAX_CONTROL_DRIFT:
        reason = (
            f"retraining with nothing removed already changes the loss by {control_drift:.2g} times what a typical "
            "removal does"
        )
    elif ceiling is not None and ceiling < MIN_CEILING:
        reason = f"retraining is so noisy that a perfect estimate would only correlate {ceiling:.2f} with it"
    return Verdict(Grade.UNDECIDED, f"The estimates cannot be judged: {reason}.") if reason else None


def _decided(evidence: _Evidence, ceiling: float) -> Verdict:
    """The grade of an estimate that can be judged."""
    if evidence.most_spearman <= -FAIR_CORRELATION:
        return Verdict(
            Grade.REVERSED, f"The estimates have the wrong sign: they run against retraining ({evidence.shown})."
        )
    if evidence.miss_relation:
        return Verdict(
            Grade.MISS_RELATION,
            f"Do not trust the sizes: ranks agree with retraining better than magnitudes do ({evidence.shown}).",
        )
    if min(evidence.spearman, evidence.pearson) >= GOOD_CORRELATION * ceiling:
        return _good(evidence)
    if evidence.spearman >= GOOD_CORRELATION * ceiling:
        return Verdict(
            Grade.ORDER_ONLY,
            f"Trust the order, not the size: magnitudes follow those of retraining only loosely ({evidence.shown})"
            f"{_too_few(evidence, GOOD_CORRELATION * ceiling)}.",
        )
    if evidence.spearman >= FAIR_CORRELATION * ceiling:
        return Verdict(
            Grade.INDICATIVE,
            f"The estimates are an indication only: their order is partly that of retraining ({evidence.shown})"
            f"{_too_few(evidence, GOOD_CORRELATION * ceiling)}.",
        )
    if evidence.highest_spearman >= FAIR_CORRELATION * ceiling:
        return Verdict(
            Grade.UNDECIDED,
            f"The estimates cannot be judged: the order may be useless or useful, Spearman lies below "
            f"{evidence.highest_spearman:.2f} ({evidence.shown}): {evidence.removals} leave that open; more seeds or "
            "more removals would tell.",
        )
    return Verdict(
        Grade.UNTRUSTWORTHY, f"Do not trust the estimates: their order is not that of retraining ({evidence.shown})."
    )


def _too_few(evidence: _Evidence, wanted: float) -> str:
    """Why no more is said of estimates that look good, where the length of the intervals is the reason."""
    if evidence.at_best < wanted:
        return ""
    return (
        f"; nothing better can be said of {evidence.removals}, whose intervals reach below {wanted:.2f}: more seeds or "
        "more removals would tell"
    )


def _good(evidence: _Evidence) -> Verdict:
    """An estimate whose order is right: is its size?"""
    if abs(evidence.slope - 1) <= SLOPE_TOLERANCE:
        return Verdict(
            Grade.TRUSTWORTHY,
            f"Trust the estimates: order and size are those of retraining ({evidence.shown}).",
        )
    return Verdict(
        Grade.ORDER_ONLY,
        f"Trust the order, not the size: the true effects are {evidence.slope:.2g} times the estimates "
        f"({evidence.shown}).",
    )


def _evidence(found: Agreement | AgreementSummary, runs: str | None) -> _Evidence:
    """What one run or several runs say."""
    if isinstance(found, Agreement):
        return _Evidence(
            spearman=found.spearman,
            most_spearman=found.spearman,
            highest_spearman=_highest(found.spearman, found.n),
            pearson=found.pearson,
            slope=found.slope,
            at_best=min(found.spearman, found.pearson),
            removals=f"{found.n} removals",
            miss_relation=found.miss_relation,
            shown=f"Spearman {found.spearman:.2f}, Pearson {found.pearson:.2f}, slope {found.slope:.2f}",
            note=found.note,
        )
    spearman, pearson = found.intervals["spearman"], found.intervals["pearson"]
    slope = found.intervals["slope"]
    sure = [one.estimate if np.isnan(one.low) else one.low for one in (spearman, pearson)]
    return _Evidence(
        spearman=sure[0],
        most_spearman=spearman.estimate if np.isnan(spearman.high) else spearman.high,
        highest_spearman=_highest(spearman.estimate, found.n) if np.isnan(spearman.high) else spearman.high,
        pearson=sure[1],
        slope=slope.estimate,
        at_best=min(spearman.estimate, pearson.estimate),
        removals=f"{found.n} removals in {runs or f'{found.n_runs} runs'}",
        miss_relation=found.miss_relations > found.n_runs / 2,
        shown=f"Spearman {_shown(spearman)}, Pearson {_shown(pearson)}, slope {_shown(slope)}",
        note="; ".join(found.notes),
    )


def _highest(spearman: float, n: int) -> float:
    """Upper end of Spearman's 95 % interval over n points: Fisher's z with the variance (1 + r^2 / 2) / (n - 3)."""
    if n <= 3 or abs(spearman) >= 1:
        return 1.0 if abs(spearman) < 1 else spearman
    return float(np.tanh(np.arctanh(spearman) + 1.96 * np.sqrt((1 + spearman**2 / 2) / (n - 3))))


def _shown(interval: Interval) -> str:
    """An estimate, with its interval if it has one."""
    if np.isnan(interval.low):
        return f"{interval.estimate:.2f}"
    return f"{interval.estimate:.2f} with {interval.level:.0%} interval {interval.low:.2f} to {interval.high:.2f}"
