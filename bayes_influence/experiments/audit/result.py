"""What an audit found: agreement, waterfall, spectrum and verdict out of what was measured on every network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

import numpy as np
import pandas as pd
from torch import nn

from bayes_influence.evaluation.agreement import AgreementSummary, bootstrap_summary
from bayes_influence.evaluation.ceiling import retraining_ceiling
from bayes_influence.evaluation.verdict import Verdict, verdict
from bayes_influence.evaluation.waterfall import STAGES, average_waterfall
from bayes_influence.experiments.audit.jobs import AuditJob
from bayes_influence.experiments.store.cells import CellResult
from bayes_influence.moments.layers import is_bayesian

KINKED = {
    "Hardshrink",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "LeakyReLU",
    "PReLU",
    "ReLU",
    "ReLU6",
    "SELU",
    "Softshrink",
    "Threshold",
}
"""Modules of torch whose slope jumps."""


@dataclass(frozen=True, eq=False, repr=False)
class Audit:
    """What an audit found.

    Attributes:
        verdict: One sentence, and the grade behind it.
        truth: The retraining that the verdict holds the estimates against: a stage of the waterfall.
        agreement: One row per stage: every statistic of agreement between the estimated changes of the test losses and
            those at that stage, with bootstrap intervals over networks, test examples and removed examples.
        waterfall: One row per gap, means over networks and removed examples.
        stages: One row per network and stage: convergence, drift of the control, time.
        spectrum: One row per network and matrix: both ends, trace, effective dimension.
        eigenvalues: One row per network, matrix and eigenvalue, ascending, with the number that it stands for: 1, or
            more where there are too many and they are nodes of a quadrature of the density.
        attribution: One row per band of the spectrum: its share of the scores, a mean over networks and test examples.
        effects: One row per network, test and removed example: estimated and true changes.
        gaps: The waterfall for every network and removed example.
        ceiling: Correlation that a perfect estimate of the effect averaged over seeds would reach against retraining
            one of them, from the spread between networks; NaN for one network. An estimate for its own network can be
            better.
        damping: The delta used.
        notes: What to bear in mind: controls that drift, retrainings that did not converge, statistics not defined.
        polished: What a polish changed of every network's loss and gradient, in sentences.
    """

    verdict: Verdict
    truth: str
    agreement: pd.DataFrame
    waterfall: pd.DataFrame
    stages: pd.DataFrame
    spectrum: pd.DataFrame
    eigenvalues: pd.DataFrame
    attribution: pd.DataFrame
    effects: pd.DataFrame
    gaps: pd.DataFrame
    ceiling: float
    damping: float
    notes: tuple[str, ...]
    polished: tuple[str, ...] = ()

    def __repr__(self) -> str:
        seeds, tests, removed = (self.effects[name].nunique() for name in ("seed", "test", "example"))
        return (
            f"Audit({self.verdict.grade}, against stage {self.truth!r}; networks x test x removed examples: "
            f"{seeds} x {tests} x {removed}, damping {self.damping:.3g})"
        )

    def _repr_html_(self) -> str:
        """Verdict, agreement with every stage and notes, as a notebook shows it."""
        columns = ["stage", "spearman", "pearson", "slope", "sign_agreement", "top_k_overlap"]
        table = self.agreement[columns].to_html(index=False, float_format="{:.3f}".format)
        notes = "".join(f"<li>{escape(note)}</li>" for note in self.notes)
        return f"<p>{escape(self.verdict.sentence)}</p>{table}<ul>{notes}</ul>"

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """All tables by name."""
        names = ("agreement", "waterfall", "stages", "spectrum", "eigenvalues", "attribution", "effects", "gaps")
        return {name: getattr(self, name) for name in names}


def summarise_audit(cells: Mapping[str, CellResult], jobs: Mapping[str, AuditJob]) -> Audit:
    """Agreement, waterfall, spectrum and verdict out of what was measured on every network."""
    job = next(iter(jobs.values()))
    names = ("effects", "gaps", "stages", "spectrum", "eigenvalues", "attribution")
    empty = pd.DataFrame()
    tables = {
        name: pd.concat([cell.tables.get(name, empty) for cell in cells.values()], ignore_index=True) for name in names
    }
    measured = [stage for stage in STAGES if stage in tables["effects"]]
    truth = "cold" if "cold" in measured and not job.exact else "warm"
    summaries = {stage: _agreement(tables["effects"], stage) for stage in measured}
    drifts = tables["stages"].loc[tables["stages"]["stage"] == truth, "control_drift"]
    runs = named_runs(tables["effects"])
    agreement = pd.DataFrame([{"stage": stage} | summary.to_row() for stage, summary in summaries.items()])
    return Audit(
        verdict=verdict(summaries[truth], control_drift=float(drifts.median()), runs=runs),
        truth=truth,
        agreement=agreement,
        waterfall=average_waterfall(tables["gaps"]),
        stages=tables["stages"],
        spectrum=tables["spectrum"],
        eigenvalues=tables["eigenvalues"],
        attribution=_mean_attribution(tables["attribution"]),
        effects=tables["effects"],
        gaps=tables["gaps"],
        ceiling=_ceiling(tables["effects"], truth),
        damping=job.delta,
        notes=_notes(tables["stages"], summaries[truth], truth, runs, _kinks(job.members.objective.network)),
        polished=tuple(sentence for one in jobs.values() for sentence in one.polished),
    )


def _by_run(effects: pd.DataFrame, column: str) -> np.ndarray:
    """(seeds x test examples, removed examples): the runs that agreement is measured in."""
    return np.stack([group[column].to_numpy() for _, group in effects.groupby(["seed", "test"], sort=False)])


def named_runs(effects: pd.DataFrame) -> str:
    """What the runs are that agreement is measured in, with their number.

    Args:
        effects: With the columns seed and test.
    """
    seeds, tests = (effects[name].nunique() for name in ("seed", "test"))
    if min(seeds, tests) > 1:
        return f"{seeds * tests} pairs of network and test example"
    count, what = (tests, "test example") if seeds == 1 else (seeds, "network")
    return f"{count} {what}{'s' * (count > 1)}"


def _agreement(effects: pd.DataFrame, stage: str) -> AgreementSummary:
    return bootstrap_summary(_by_run(effects, "estimated"), _by_run(effects, stage))


def _ceiling(effects: pd.DataFrame, truth: str) -> float:
    """Mean over test examples of the ceiling against one retraining."""
    if effects["seed"].nunique() < 2:
        return float("nan")
    found = [retraining_ceiling(_by_run(group, truth)).single for _, group in effects.groupby("test", sort=False)]
    return float(np.mean(found))


def _mean_attribution(attribution: pd.DataFrame) -> pd.DataFrame:
    if attribution.empty:
        return attribution
    columns = ["directions", "trace_share", "score_share", "mean_size"]
    return attribution.groupby("band", sort=False)[columns].mean().reset_index()


def _kinks(network: nn.Module) -> str:
    """Why no step may lower J: activations whose slope jumps. Empty where the network has none."""
    names = sorted({type(module).__name__ for module in network.modules()} & KINKED)
    if not names:
        return ""
    jumps = "J itself jumps there under first-order moments" if is_bayesian(network) else "the gradient does"
    return (
        f"the slope of {' and '.join(names)} jumps, and {jumps}, so that a minimum may have a gradient; networks with "
        "a smooth activation, tanh say, have no such minima"
    )


def _notes(stages: pd.DataFrame, found: AgreementSummary, truth: str, runs: str, advice: str) -> tuple[str, ...]:
    """What went wrong without ending the audit, in words, of so many `runs`; `advice` is on unconverged refits."""
    notes = []
    for name, group in stages.groupby("stage", sort=False):
        drifting = int(group["drift_exceeds_effects"].sum())
        if drifting:
            notes.append(
                f"{name}: retraining with nothing removed moves a test loss as far as a typical removal does in "
                f"{drifting} of {len(group)} networks (median {group['control_drift'].median():.2g} times as far); the "
                f"networks had not converged"
            )
        unconverged = int(group["unconverged"].sum())
        if unconverged:
            notes.append(
                f"{name}: {unconverged} of {int(group['refits'].sum())} refits did not reach their gradient norm "
                f"(worst {group['gradient_norm'].max():.1e}){f'; {advice}' if advice else ''}"
            )
    notes += [f"{truth}: {note} ({count} of {runs})" for note, count in found.notes.items()]
    return tuple(notes)
