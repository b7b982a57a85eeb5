"""The traced and rewritten step against vmap of the gradient, which it must equal."""

import pytest
import torch
from torch import nn
from torch.func import grad_and_value, vmap

from bayes_influence.models.initialisation import initial_params
from bayes_influence.training import tracing
from bayes_influence.training.schemes import SCHEMES
from bayes_influence.training.tracing import can_compile, trace_members


def _problem(iris, scheme):
    def make():
        return SCHEMES[scheme].prepare(nn.Sequential(nn.Linear(4, 6), nn.SELU(), nn.Linear(6, 3)).double())

    params = initial_params(make, range(3), torch.float64)
    weights = torch.rand(3, 149, generator=torch.Generator().manual_seed(0)).double()
    strengths = torch.tensor([0.0, 0.5, 1.0]).double()
    return SCHEMES[scheme].objective(make(), 149), (params, iris.train.batch(), weights, strengths)


def check_equal_steps(step, objective, arguments):
    def value(params, batch, weights, strength):
        return objective.value(params, batch, weights, strength)

    gradients, values = vmap(grad_and_value(value), in_dims=(0, None, 0, 0))(*arguments)
    traced_gradients, traced_values = step(*arguments)
    assert torch.allclose(traced_values, values, rtol=1e-12, atol=1e-13)
    for name, gradient in gradients.items():
        assert torch.allclose(traced_gradients[name], gradient, rtol=1e-10, atol=1e-13), name


@pytest.mark.parametrize("scheme", ["weight-decay", "bnn", "bnn-evi"])
def test_the_rewritten_trace_computes_the_same(iris, scheme):
    objective, arguments = _problem(iris, scheme)
    check_equal_steps(trace_members(objective, *arguments), objective, arguments)


def test_the_trace_holds_for_other_numbers_than_it_was_made_with(iris):
    objective, arguments = _problem(iris, "bnn")
    step = trace_members(objective, *arguments)
    params, batch, weights, strengths = arguments
    moved = {name: value + 0.3 for name, value in params.items()}
    check_equal_steps(step, objective, (moved, batch, weights.flip(1), strengths.flip(0)))


@pytest.mark.slow
@pytest.mark.skipif(not can_compile(), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("scheme", ["weight-decay", "bnn"])
def test_long_trainings_are_compiled_to_the_same_step(iris, scheme, monkeypatch):
    monkeypatch.setattr(tracing, "COMPILE_FROM_STEPS", 10)
    objective, arguments = _problem(iris, scheme)
    step = trace_members(objective, *arguments, steps=10)
    check_equal_steps(step, objective, arguments)


def test_softmaxes_of_large_numbers_do_not_overflow():
    values = torch.tensor([[1000.0, 999.0, -1000.0], [-3.0, 0.0, 2.0]], dtype=torch.float64)
    for dim in (0, 1):
        torch.testing.assert_close(tracing._softmax(values, dim, False), values.softmax(dim))
        torch.testing.assert_close(tracing._log_softmax(values, dim, False), values.log_softmax(dim))
