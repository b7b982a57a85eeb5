from dataclasses import replace

import pytest
import torch

from bayes_influence.curvature import cost
from bayes_influence.curvature.cost import TooLargeError
from bayes_influence.experiments.audit.jobs import audit_jobs, audit_plan, hardest_in_the_mean
from bayes_influence.experiments.audit.of_networks import audit
from bayes_influence.experiments.audit.settings import AuditSettings
from bayes_influence.objectives.members import Members
from bayes_influence.retraining.linear_response import RESPONSE_COPIES
from bayes_influence.training.schedules import Schedule


def test_the_removed_examples_are_the_same_for_every_network(last_layer, data):
    ids = hardest_in_the_mean([(last_layer.at(row), data[0]) for row in range(2)], 5)
    losses = sum(last_layer.at(row).losses(last_layer.at(row).params, data[0].batch()) for row in range(2))
    assert set(ids.tolist()) == set(torch.argsort(losses, descending=True)[:5].tolist())
    jobs = audit_jobs(last_layer, *data, AuditSettings(removals=5, damping=0.1))
    assert all(torch.equal(job.removed, ids) for job in jobs.values())


def test_more_removals_than_examples_are_refused(last_layer, data):
    with pytest.raises(ValueError, match="between 1 and 33 of 34 examples can be removed, got 40"):
        audit(last_layer, *data, AuditSettings(removals=40), progress=False)


@pytest.mark.parametrize(
    ("parameters", "refits", "exact"),
    [
        ("last-layer", "auto", True),
        ("all", "auto", False),
        ("all", "newton", True),
        ("last-layer", "trained", False),
    ],
)
def test_retraining_goes_to_a_minimum_where_the_last_layer_has_one(last_layer, data, parameters, refits, exact):
    members = Members.of([last_layer.at(0).taking(parameters)], ["0"], [0])
    (job,) = audit_jobs(members, *data, AuditSettings(removals=3, damping=0.1, refits=refits)).values()
    assert job.is_head == (parameters == "last-layer")
    assert job.exact == exact


def test_a_last_layer_without_a_regulariser_has_no_minimum(last_layer, data):
    plain = replace(last_layer.at(0).taking("last-layer"), regulariser_weight=0.0)
    (job,) = audit_jobs(Members.of([plain], ["0"], [0]), *data, AuditSettings(removals=3, damping=0.1)).values()
    assert job.is_head
    assert not job.exact


def test_an_audit_that_does_not_fit_is_refused_with_what_it_would_hold(last_layer, data, monkeypatch):
    """Two networks, 4 removals and a control, five stages, three classes; steps of the warm stage alone are passes."""
    settings = AuditSettings(removals=4, damping=0.01, refits="trained", refit_schedule=Schedule(30))
    plan = audit_plan(audit_jobs(last_layer, *data, settings))
    size = last_layer.objective.layout.total
    assert plan.held_bytes == (5 * 5 * len(data[0]) * 3 + RESPONSE_COPIES * size**2) * 8
    assert plan.passes == 2 * 5 * 30
    assert str(plan).startswith("audit of 2 networks by 5 refits of each at 5 stages: holds ")
    exact = audit_plan(audit_jobs(last_layer, *data, replace(settings, refits="newton")))
    assert exact.passes == 0
    monkeypatch.setattr(cost, "SMALL_BYTES", 0)
    monkeypatch.setattr(cost, "available_bytes", lambda device: 1000)
    with pytest.raises(TooLargeError, match=r"audit of 2 networks .* remove fewer examples"):
        audit_plan(audit_jobs(last_layer, *data, settings)).check(torch.device("cpu"))
