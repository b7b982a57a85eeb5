import pytest

from bayes_influence.experiments.audit.of_networks import audit
from bayes_influence.experiments.audit.settings import AuditSettings
from bayes_influence.retraining.protocols import Minimum, ProximalBregman


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


def test_the_estimate_is_nearest_to_what_it_linearises(found):
    pearson = found.agreement.set_index("stage")["pearson"]
    assert pearson["solver"] > 0.99
    assert pearson["pbrf"] > 0.9
    assert pearson["linear"] == pytest.approx(pearson["solver"], abs=1e-6)


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
