from dataclasses import replace

import pandas as pd
import pytest

from bayes_influence.experiments.audit.of_data import audit_data
from bayes_influence.experiments.audit.settings import AuditedData, AuditSettings
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.schemes import SCHEMES


def test_a_scheme_on_a_table_is_trained_and_audited_in_its_folder(tmp_path, monkeypatch):
    table = AuditedData(repeats=2, epochs=60, parameters="last-layer", test_example=83)
    settings = AuditSettings(removals=4, refit_schedule=Schedule(5), polish=True)
    found, folder = audit_data(table, tmp_path / "audit", settings, n_jobs=1, progress=False)
    assert folder.config["settings"] == settings.to_config() | {
        "refit_schedule": folder.config["settings"]["refit_schedule"]
    }
    assert AuditSettings.from_config(folder.config["settings"]) == settings
    assert found.effects["seed"].unique().tolist() == [0, 1]
    assert found.effects["test"].unique().tolist() == [83]
    assert found.truth == "warm"
    assert (folder.path / "figure.png").stat().st_size > 10_000
    pd.testing.assert_frame_equal(pd.read_csv(folder.path / "gaps.csv"), found.gaps)
    with pytest.raises(ValueError, match="another configuration: width is 5 there and 6 here"):
        audit_data(replace(table, width=6), folder.path, settings)
    monkeypatch.setitem(SCHEMES, "weight-decay", replace(SCHEMES["weight-decay"], weight_decay=0.1))
    with pytest.raises(ValueError, match=r"resolved_schemes\.weight-decay\.weight_decay is 0\.005 there and 0\.1 here"):
        audit_data(table, folder.path, settings)


def test_more_removals_than_there_are_examples_are_refused_before_any_training(tmp_path):
    with pytest.raises(ValueError, match="of which at most 148 can be removed; got removals=149"):
        audit_data(AuditedData(test_example=83), tmp_path / "audit", AuditSettings(removals=149))
    assert not (tmp_path / "audit").exists()
