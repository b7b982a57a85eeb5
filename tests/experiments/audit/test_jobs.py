import pytest
import torch

from bayes_influence.experiments.audit.jobs import audit_jobs, hardest_in_the_mean
from bayes_influence.experiments.audit.of_networks import audit
from bayes_influence.experiments.audit.settings import AuditSettings


def test_the_removed_examples_are_the_same_for_every_network(last_layer, data):
    ids = hardest_in_the_mean([(last_layer.at(row), data[0]) for row in range(2)], 5)
    losses = sum(last_layer.at(row).losses(last_layer.at(row).params, data[0].batch()) for row in range(2))
    assert set(ids.tolist()) == set(torch.argsort(losses, descending=True)[:5].tolist())
    jobs = audit_jobs(last_layer, *data, AuditSettings(removals=5, damping=0.1))
    assert all(torch.equal(job.removed, ids) for job in jobs.values())


def test_more_removals_than_examples_are_refused(last_layer, data):
    with pytest.raises(ValueError, match="between 1 and 33 of 34 examples can be removed, got 40"):
        audit(last_layer, *data, AuditSettings(removals=40), progress=False)
