import numpy as np
import pytest
import torch

from bayes_influence.data.synthetic import logistic_classes
from bayes_influence.evaluation.verdict import Grade
from bayes_influence.experiments.audit import of_networks as auditing
from bayes_influence.experiments.audit import spectrum as audit_spectrum
from bayes_influence.experiments.audit.cell import measure_network
from bayes_influence.experiments.audit.jobs import audit_jobs, each_network, given_fits, hardest_in_the_mean
from bayes_influence.experiments.audit.of_networks import audit
from bayes_influence.experiments.audit.report import audit_figure, printed_audit
from bayes_influence.experiments.audit.result import summarise_audit
from bayes_influence.experiments.audit.settings import AuditSettings
from bayes_influence.experiments.store.cells import CellResult
from bayes_influence.models.mlp import MLP
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay
from bayes_influence.retraining.protocols import Minimum, ProximalBregman
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.schemes import SCHEMES, Deterministic

SCHEDULE = Schedule(150, 0.02)
SETTINGS = AuditSettings(removals=5, damping=0.05, refit_schedule=Schedule(30))


@pytest.fixture(scope="module")
def data():
    whole = logistic_classes(36, n_features=3, n_classes=3, seed=1).dataset
    return whole.select(range(34)), whole.select(range(34, 36))


def tanh_network():
    return MLP(3, 3, width=3, activation="tanh")


def _fits(data, selection, decay=0.05, tolerance=1e-10):
    scheme = Deterministic("l2", decay=decay, regulariser_weight=float(decay > 0))
    (fits,) = fit_schemes([scheme], tanh_network, data[0], [0, 1], SCHEDULE, parameters=selection, tolerance=tolerance)
    return fits


@pytest.fixture(scope="module")
def last_layer(data):
    return _fits(data, "last-layer")


@pytest.fixture(scope="module")
def unfinished(data):
    return _fits(data, "all", decay=0.0, tolerance=None)


@pytest.fixture(scope="module")
def found(unfinished, data):
    return audit(unfinished, *data, SETTINGS, make_network=tanh_network, schedule=SCHEDULE, progress=False)


def test_a_convex_last_layer_can_be_trusted(last_layer, data):
    settings = AuditSettings(removals=8, damping=1e-6)
    trusted = audit(last_layer.at(0), *data, settings, progress=False)
    assert trusted.truth == "warm"
    assert trusted.verdict.grade is Grade.TRUSTWORTHY
    assert trusted.notes == ()
    assert trusted.agreement.set_index("stage").loc["warm", "spearman"] > 0.95
    gaps = trusted.waterfall.set_index("gap")
    # At a minimum of a convex problem only linearising costs anything.
    assert gaps["output_distance"].idxmax() == "linearisation"
    assert gaps.loc["solver", "output_distance"] < 1e-8


def test_every_gap_of_a_network_is_measured(found):
    assert found.waterfall["gap"].tolist() == [
        "warm-start",
        "proximity",
        "non-convergence",
        "linearisation",
        "solver",
    ]
    assert (found.waterfall["output_distance"].iloc[:4] > 0).all()
    assert found.truth == "cold"
    assert len(found.gaps) == 2 * 5 * 5
    assert len(found.effects) == 2 * 2 * 5


def test_the_estimate_is_nearest_to_what_it_linearises(found):
    pearson = found.agreement.set_index("stage")["pearson"]
    assert pearson["solver"] > 0.99
    assert pearson["pbrf"] > 0.9
    assert pearson["linear"] == pytest.approx(pearson["solver"], abs=1e-6)


def test_the_spectrum_is_that_of_hessian_and_gauss_newton_matrix(found):
    spectrum = found.spectrum.set_index(["seed", "matrix"])
    assert spectrum.loc[(0, "ggn"), "smallest"] > -1e-12
    assert spectrum.loc[(0, "hessian"), "parameters"] == 24
    values = found.eigenvalues.query("seed == 1 and matrix == 'ggn'")["eigenvalue"].to_numpy()
    assert spectrum.loc[(1, "ggn"), "largest"] == pytest.approx(values.max())
    assert spectrum.loc[(1, "ggn"), "trace"] == pytest.approx(values.sum())
    assert spectrum.loc[(1, "ggn"), "effective_dimension"] == pytest.approx((values / (values + 0.05)).sum())
    assert found.attribution["score_share"].sum() == pytest.approx(1.0)


def test_a_control_that_drifts_more_than_the_effects_is_flagged(found):
    assert found.stages.query("stage == 'warm'")["drift_exceeds_effects"].any()
    (note,) = [note for note in found.notes if note.startswith("warm")]
    assert "retraining with nothing removed moves a test loss as far as a typical removal does" in note
    assert not found.stages.query("stage == 'pbrf'")["drift_exceeds_effects"].any()


def test_refits_that_do_not_converge_are_noted(data):
    objective = Objective(MLP(3, 3, depth=0, seed=0).double(), CrossEntropy(), WeightDecay(0.05), parameters="all")
    settings = AuditSettings(removals=3, damping=0.05, refit_schedule=Schedule(2), tolerance=1e-300)
    notes = audit(objective, *data, settings, progress=False).notes
    assert any("proximal: 4 of 4 refits did not reach their gradient norm" in note for note in notes)


@pytest.fixture(scope="module")
def measured(last_layer, data):
    """Jobs, and what they measured."""
    jobs = audit_jobs(last_layer, *data, AuditSettings(removals=4, damping=0.01))
    return jobs, {key: measure_network(job) for key, job in jobs.items()}


def _changed(cells, name, **columns):
    return {
        key: CellResult(dict(cell.tables) | {name: cell.tables[name].assign(**columns)}) for key, cell in cells.items()
    }


def test_constant_scores_are_said_to_be_constant(measured):
    jobs, cells = measured
    found = summarise_audit(_changed(cells, "effects", estimated=0.0), jobs)
    assert found.verdict.grade is Grade.UNDECIDED
    assert "all estimated differences are equal" in found.verdict.sentence
    assert found.notes == ("warm: all estimated differences are equal (4 of 4 runs)",)


def test_a_drifting_truth_is_not_judged_by(measured):
    jobs, cells = measured
    found = summarise_audit(_changed(cells, "stages", control_drift=2.5, drift_exceeds_effects=True), jobs)
    assert found.verdict.grade is Grade.UNDECIDED
    assert "already changes the loss by 2.5 times what a typical removal does" in found.verdict.sentence
    assert "in 2 of 2 networks (median 2.5 times as far)" in found.notes[0]


def test_one_objective_is_audited_from_where_it_stands(last_layer, data):
    settings = AuditSettings(removals=4, damping=0.01)
    found = audit(last_layer.at(1), *data, settings, progress=False)
    assert found.effects["seed"].unique().tolist() == [0]
    assert np.isnan(found.ceiling)
    assert given_fits(last_layer.at(1), data[0]).gradient_norms[0] < 1e-9


@pytest.mark.slow
def test_variational_networks_are_audited_in_the_fisher_metric(data):
    (fits,) = fit_schemes([SCHEMES["bnn"]], tanh_network, data[0], [0], SCHEDULE)
    found = audit(fits, *data, AuditSettings(removals=4), progress=False)
    assert found.damping > 0
    assert found.stages.set_index("stage").loc["warm", "unconverged"] == 0
    assert found.agreement.set_index("stage").loc["pbrf", "pearson"] > 0.5


def test_the_removed_examples_are_the_same_for_every_network(last_layer, data):
    ids = hardest_in_the_mean([(last_layer.at(row), data[0]) for row in range(2)], 5)
    losses = sum(last_layer.at(row).losses(last_layer.at(row).params, data[0].batch()) for row in range(2))
    assert set(ids.tolist()) == set(torch.argsort(losses, descending=True)[:5].tolist())
    jobs = audit_jobs(last_layer, *data, AuditSettings(removals=5, damping=0.1))
    assert all(torch.equal(job.removed, ids) for job in jobs.values())


def test_a_killed_audit_resumes(last_layer, data, measured, tmp_path, monkeypatch):
    jobs, cells = measured
    settings, folder = AuditSettings(removals=4, damping=0.01), tmp_path / "audit"
    asked = []

    def killed_at_the_second(job):
        asked.append(job.fits.seeds)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return cells[f"seed={job.fits.seeds[0]}"]

    monkeypatch.setattr(auditing, "measure_network", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt, match="1 of 2 cells are stored"):
        audit(last_layer, *data, settings, folder=folder, progress=False)
    resumed = audit(last_layer, *data, settings, folder=folder, progress=False)
    assert asked == [(0,), (1,), (1,)]
    whole = summarise_audit(cells, jobs)
    assert resumed.agreement.equals(whole.agreement)
    assert (folder / "verdict.txt").read_text().startswith(whole.verdict.sentence)
    with pytest.raises(ValueError, match=r"another configuration: settings\.removals is 4 there and 5 here"):
        audit(last_layer, *data, AuditSettings(removals=5, damping=0.01), folder=folder, progress=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"removals": 2}, "an audit needs at least 3 removed examples for its correlations, got 2"),
        ({"damping": 0.0}, "the damping must be positive, got 0.0; leave it out for the automatic one"),
        ({"curvature": "fisher"}, "unknown curvature 'fisher'; known: ggn, hessian"),
        ({"solver": "gauss"}, "unknown solver 'gauss'; known: auto, cholesky"),
    ],
)
def test_settings_that_cannot_work_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        AuditSettings(**arguments)


def test_more_removals_than_examples_are_refused(last_layer, data):
    with pytest.raises(ValueError, match="between 1 and 33 of 34 examples can be removed, got 40"):
        audit(last_layer, *data, AuditSettings(removals=40), progress=False)


def test_a_report_holds_every_part(found):
    titles = [str(table.title) for table in printed_audit(found)]
    assert titles == [
        "estimated change of the test loss against",
        "where retraining and estimate part",
        "curvature in the selected parameters",
        "where in the spectrum the scores come from",
    ]
    assert [table.row_count for table in printed_audit(found)] == [6, 5, 2, 4]
    figure = audit_figure(found, "a network")
    assert found.verdict.sentence in figure.get_suptitle()


def test_a_killed_audit_resumes_at_the_next_stage(last_layer, data, tmp_path, monkeypatch):
    settings, folder = AuditSettings(removals=4, damping=0.01), tmp_path / "audit"
    whole = audit(last_layer.at(0), *data, settings, progress=False)
    refit, asked = ProximalBregman.refit, []

    def killed_once(self, *arguments, **options):
        asked.append(self.name)
        if len(asked) == 1:
            raise KeyboardInterrupt
        return refit(self, *arguments, **options)

    monkeypatch.setattr(ProximalBregman, "refit", killed_once)
    with pytest.raises(KeyboardInterrupt, match="0 of 1 cells are stored"):
        audit(last_layer.at(0), *data, settings, folder=folder, progress=False)
    stored = {path.name.split(".")[0] for path in (folder / "cells").iterdir()}
    assert stored == {"seed=0,stage=warm", "seed=0,stage=proximal"}
    monkeypatch.setattr(Minimum, "refit", lambda *_, **__: pytest.fail("a stored stage was computed again"))
    resumed = audit(last_layer.at(0), *data, settings, folder=folder, progress=False)
    assert resumed.effects.equals(whole.effects)


def test_large_spectra_come_from_lanczos(unfinished, data, monkeypatch):
    job = audit_jobs(unfinished, *data, SETTINGS)["seed=0"]
    influence = SETTINGS.influence(job.fits.at(0), job.train, job.damping)
    arguments = influence, "ggn", job.delta, job.train.at(job.removed), job.test
    dense = audit_spectrum.audit_spectrum(*arguments)
    monkeypatch.setattr(audit_spectrum, "DENSE_SIZE", 10)
    large = audit_spectrum.audit_spectrum(*arguments)
    # P = 24 < 40 steps: the Krylov spaces are exhausted, and only the choice of the probes is left.
    for column in ("largest", "smallest", "parameters"):
        np.testing.assert_allclose(large["spectrum"][column], dense["spectrum"][column], atol=1e-9)
    np.testing.assert_allclose(large["spectrum"]["trace"], dense["spectrum"]["trace"], rtol=0.5)
    assert large["eigenvalues"].groupby("matrix")["count"].sum().tolist() == pytest.approx([24, 24])
    for column in ("score_share", "mean_size"):
        np.testing.assert_allclose(large["attribution"][column], dense["attribution"][column], rtol=1e-6, atol=1e-9)


def test_a_polished_audit_is_of_a_minimum(data):
    unpolished = _fits(data, "last-layer", tolerance=None)
    settings = AuditSettings(removals=4, damping=1e-6, polish=True)
    polished = audit(unpolished, *data, settings, progress=False)
    assert polished.notes == ()
    assert polished.verdict.grade is Grade.TRUSTWORTHY
    assert polished.stages.query("stage == 'warm'")["control_drift"].max() < 1e-4


def test_networks_that_differ_in_more_than_parameters_are_audited_each(last_layer, data):
    settings = AuditSettings(removals=4, damping=0.01)
    together = audit(last_layer, *data, settings, progress=False)
    apart = audit(each_network(last_layer), *data, settings, progress=False)
    assert apart.effects.equals(together.effects)


def test_a_last_layer_without_regulariser_can_be_refitted_to_its_minimum(data):
    free = _fits(data, "last-layer", decay=0.0, tolerance=None)
    found = audit(free, *data, AuditSettings(removals=4, damping=1e-3, refits="newton"), progress=False)
    assert found.stages.set_index("stage").loc["warm", "unconverged"].max() == 0
    with pytest.raises(ValueError, match="unknown refits 'cold'; known: auto, newton, trained"):
        AuditSettings(refits="cold")
