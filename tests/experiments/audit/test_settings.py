import json

import pytest

from bayes_influence.experiments.audit.settings import AuditedData, AuditSettings
from bayes_influence.training.schedules import Plateau, Schedule


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


def test_settings_come_back_from_their_configuration():
    schedule = Schedule(30, 0.01, Plateau(patience=3))
    settings = AuditSettings(removals=7, damping=0.1, refit_schedule=schedule, polish=True)
    assert AuditSettings.from_config(json.loads(json.dumps(settings.to_config()))) == settings
    steady = AuditSettings(refit_schedule=Schedule(plateau=None))
    assert AuditSettings.from_config(steady.to_config()) == steady


def test_an_audited_table_has_one_scheme():
    assert AuditedData(scheme="bnn").scheme == "bnn"
    with pytest.raises(ValueError, match="unknown scheme none,swa; known: none"):
        AuditedData(scheme="none,swa")
