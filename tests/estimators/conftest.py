"""Steps that are not traced first: that pays from some hundred steps on."""

import pytest
from torch.func import grad_and_value, vmap

from bayes_influence.training import ensemble
from bayes_influence.training.tracing import TracedStep


@pytest.fixture
def untraced(monkeypatch):
    def trace_members(objective, params, batch, data_weights, regulariser_weights, **_):
        def run(stacked, data, weights, strengths):
            return vmap(grad_and_value(objective.value), in_dims=(0, None, 0, 0))(stacked, data, weights, strengths)

        return TracedStep(run, largest=1)

    monkeypatch.setattr(ensemble, "trace_members", trace_members)
