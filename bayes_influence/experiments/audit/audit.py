"""Can the estimate be trusted? Influence next to real retraining, and where the two part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from bayes_influence.data.dataset import Dataset
from bayes_influence.data.fingerprint import fingerprint
from bayes_influence.evaluation.agreement import AgreementSummary, bootstrap_summary
from bayes_influence.evaluation.ceiling import retraining_ceiling
from bayes_influence.evaluation.verdict import Verdict, verdict
from bayes_influence.evaluation.waterfall import STAGES, average_waterfall
from bayes_influence.experiments.audit.stages import AuditJob, AuditSettings, measure_network, on_features
from bayes_influence.experiments.store.cells import CellResult, cell_key
from bayes_influence.experiments.store.fingerprint import fingerprint_of_builder, identity_of_fits
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.store.runner import run_cells
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import Params, stack_members
from bayes_influence.objectives.regularisers import NoRegulariser
from bayes_influence.retraining.minimum import polished_fits
from bayes_influence.retraining.problem import refit_problem
from bayes_influence.retraining.removals import example_losses
from bayes_influence.training.fits import Fits
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.schemes import Deterministic


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


def audit(
    trained: Fits | Objective | Sequence[Fits],
    train: Dataset,
    test: Dataset,
    settings: AuditSettings | None = None,
    *,
    make_network: Callable[[], nn.Module] | None = None,
    schedule: Schedule | None = None,
    folder: str | Path | StudyFolder | None = None,
    n_jobs: int = 1,
    progress: bool = True,
) -> Audit:
    """Holds influence estimates of trained networks against real retraining, and says where the two part.

    Args:
        trained: Networks as `fit_schemes` returns them, one per seed; several such, where networks differ in more
            than their parameters (running statistics); or one objective at its fitted parameters.
        train: Their training examples.
        test: Test examples, whose losses are measured.
        settings: What is done.
        make_network: Builds the deterministic network, for retraining from scratch.
        schedule: That the networks were trained on, for retraining from scratch; without these two, retraining starts
            from the fit.
        folder: Where finished networks, and their finished stages, are stored, so that a killed audit resumes, and
            where tables go.
        n_jobs: Networks at once, in processes of their own; needs a folder.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If there are too few examples to remove, a loss is not finite, or the folder belongs to something
            else.
        FailedCellsError: If an audit of a network failed, after all others were stored.
    """
    networks = each_network(given_fits(trained, train) if isinstance(trained, Objective) else trained)
    settings = settings or AuditSettings()
    jobs = audit_jobs(networks, train, test, settings, make_network, schedule)
    if folder is None:
        return summarise_audit({key: measure_network(job) for key, job in jobs.items()}, jobs)
    if not isinstance(folder, StudyFolder):
        config = audit_config(networks, train, test, settings, make_network, schedule)
        folder = StudyFolder(folder, config)
    jobs = {key: replace(job, folder=folder) for key, job in jobs.items()}
    run_cells(jobs, measure_network, folder, n_jobs=n_jobs, progress=progress)
    found = summarise_audit({key: folder.load_cell(key) for key in jobs}, jobs)
    for name, frame in found.tables.items():
        folder.write_table(name, frame)
    folder.write_file("verdict.txt", "\n".join([found.verdict.sentence, *found.notes, ""]).encode())
    return found


def given_fits(
    objective: Objective,
    train: Dataset,
    params: Params | None = None,
    seeds: Sequence[int] = (0,),
    name: str = "network",
    *,
    measured: bool = True,
) -> Fits:
    """Networks that were trained elsewhere, as fits.

    Args:
        objective: Theirs, at the parameters of the first.
        train: Their training examples.
        params: Stacked parameters (S, ...); those of the objective when not given.
        seeds: Numbers that tell the networks apart.
        name: What they are called.
        measured: Whether their gradient norms are computed; NaN otherwise.
    """
    free = isinstance(objective.regulariser, NoRegulariser)
    scheme = Deterministic(name, regulariser_weight=0.0 if free else objective.regulariser_weight)
    stacked = stack_members([objective.params]) if params is None else params
    norms = torch.full((len(seeds),), torch.nan)
    if measured:
        _, problem = refit_problem(objective, stacked, train)
        norms = problem.gradients(problem.start, torch.arange(len(seeds)))[0].norm(dim=1)
    return Fits(scheme, objective, tuple(seeds), stacked, norms, torch.zeros_like(norms, dtype=torch.bool), 0.0)


def each_network(trained: Fits | Sequence[Fits]) -> tuple[Fits, ...]:
    """Fits of one seed each."""
    return tuple(
        replace(
            fits,
            objective=fits.at(row),
            seeds=(seed,),
            params={name: value[row : row + 1] for name, value in fits.params.items()},
            gradient_norms=fits.gradient_norms[row : row + 1],
            polished=fits.polished[row : row + 1],
        )
        for fits in ([trained] if isinstance(trained, Fits) else trained)
        for row, seed in enumerate(fits.seeds)
    )


def audit_jobs(
    trained: Fits | Sequence[Fits],
    train: Dataset,
    test: Dataset,
    settings: AuditSettings,
    make_network: Callable[[], nn.Module] | None = None,
    schedule: Schedule | None = None,
) -> dict[str, AuditJob]:
    """One job per network, by the key that it is stored under; all remove the same examples at the same damping."""
    networks = [on_features(fits, train, test) for fits in each_network(trained)]
    if settings.polish:
        networks = [(polished_fits(fits, own), own, tests) for fits, own, tests in networks]
    removed = hardest_in_the_mean([(fits.at(0), own) for fits, own, _ in networks], settings.removals)
    delta = settings.damping
    if delta is None:
        first, own, _ = networks[0]
        delta = settings.influence(first.at(0), own, "auto").damping.delta
    if delta == 0:
        raise ValueError("the automatic damping came to 0; give the audit a positive one")
    return {
        cell_key(seed=fits.seeds[0]): AuditJob(fits, own, tests, removed, settings, delta, make_network, schedule)
        for fits, own, tests in networks
    }


def hardest_in_the_mean(networks: Sequence[tuple[Objective, Dataset]], count: int) -> Tensor:
    """Ids of the training examples with the largest loss, a mean over the networks: the same for every one.

    Args:
        networks: Each with the training examples as it takes them, in one order.
        count: How many.

    Raises:
        ValueError: If there are not so many examples, or a loss is not finite.
    """
    train = networks[0][1]
    if not 1 <= count < len(train):
        raise ValueError(f"between 1 and {len(train) - 1} of {len(train)} examples can be removed, got {count}")
    mean = torch.stack([example_losses(objective, own) for objective, own in networks]).mean(0)
    return train.ids[torch.argsort(mean, descending=True, stable=True)[:count]]


def audit_config(
    networks: Sequence[Fits],
    train: Dataset,
    test: Dataset,
    settings: AuditSettings,
    make_network: Callable[[], nn.Module] | None = None,
    schedule: Schedule | None = None,
) -> dict[str, Any]:
    """What identifies an audit: its settings, and a fingerprint of networks and data."""
    again = None if make_network is None or schedule is None else (fingerprint_of_builder(make_network), schedule)
    return {
        "study": "audit",
        "scheme": networks[0].scheme.name,
        "seeds": [fits.seeds[0] for fits in networks],
        "parameters": list(networks[0].objective.names),
        "test": test.ids.tolist(),
        "settings": asdict(settings),
        "retraining": None if again is None else {"network": again[0], **asdict(again[1])},
        "fingerprint": fingerprint(networks=[identity_of_fits(fits) for fits in networks], train=train, test=test),
    }


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
