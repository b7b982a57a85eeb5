"""What an audit found: agreement, waterfall, spectrum and verdict out of what was measured on every network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bayes_influence.evaluation.agreement import AgreementSummary, bootstrap_summary
from bayes_influence.evaluation.ceiling import retraining_ceiling
from bayes_influence.evaluation.verdict import Verdict, verdict
from bayes_influence.evaluation.waterfall import STAGES, average_waterfall
from bayes_influence.experiments.audit.jobs import AuditJob
from bayes_influence.experiments.store.cells import CellResult


@dataclass(frozen=True, eq=False)
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
    agreement = pd.DataFrame([{"stage": stage} | summary.to_row() for stage, summary in summaries.items()])
    return Audit(
        verdict=verdict(summaries[truth], control_drift=float(drifts.median())),
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
        notes=_notes(tables["stages"], summaries[truth], truth),
    )


def _by_run(effects: pd.DataFrame, column: str) -> np.ndarray:
    """(seeds x test examples, removed examples): the runs that agreement is measured in."""
    return np.stack([group[column].to_numpy() for _, group in effects.groupby(["seed", "test"], sort=False)])


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


def _notes(stages: pd.DataFrame, found: AgreementSummary, truth: str) -> tuple[str, ...]:
    """What went wrong without ending the audit, in words."""
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
                f"(worst {group['gradient_norm'].max():.1e}); activations with a kink have minima where the gradient "
                f"does not vanish"
            )
    notes += [f"{truth}: {note} ({count} of {found.n_runs} runs)" for note, count in found.notes.items()]
    return tuple(notes)
