import numpy as np
import pytest

from bayes_influence.evaluation.verdict import Grade
from bayes_influence.experiments.audit import of_networks as auditing
from bayes_influence.experiments.audit.jobs import each_network, given_fits
from bayes_influence.experiments.audit.of_networks import audit
from bayes_influence.experiments.audit.result import summarise_audit
from bayes_influence.experiments.audit.settings import AuditSettings
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.schemes import SCHEMES


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


def test_one_objective_is_audited_from_where_it_stands(last_layer, data):
    settings = AuditSettings(removals=4, damping=0.01)
    found = audit(last_layer.at(1), *data, settings, progress=False)
    assert found.effects["seed"].unique().tolist() == [0]
    assert np.isnan(found.ceiling)
    assert given_fits(last_layer.at(1), data[0]).gradient_norms[0] < 1e-9


@pytest.mark.slow
def test_variational_networks_are_audited_in_the_fisher_metric(data, tanh_network):
    (fits,) = fit_schemes([SCHEMES["bnn"]], tanh_network, data[0], [0], SCHEDULE)
    found = audit(fits, *data, AuditSettings(removals=4), progress=False)
    assert found.damping > 0
    assert found.stages.set_index("stage").loc["warm", "unconverged"] == 0
    assert found.agreement.set_index("stage").loc["pbrf", "pearson"] > 0.5


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


def test_a_polished_audit_is_of_a_minimum(data, fitted):
    unpolished = fitted("last-layer", tolerance=None)
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


def test_a_last_layer_without_regulariser_can_be_refitted_to_its_minimum(data, fitted):
    free = fitted("last-layer", decay=0.0, tolerance=None)
    found = audit(free, *data, AuditSettings(removals=4, damping=1e-3, refits="newton"), progress=False)
    assert found.stages.set_index("stage").loc["warm", "unconverged"].max() == 0
    with pytest.raises(ValueError, match="unknown refits 'cold'; known: auto, newton, trained"):
        AuditSettings(refits="cold")
