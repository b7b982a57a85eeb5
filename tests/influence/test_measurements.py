"""Measurements against closed forms, Monte Carlo and refits; what is not a measurement is refused."""

import pytest
import torch
from torch import nn

from bayes_influence.influence.influence import Influence
from bayes_influence.influence.measurements import (
    Margin,
    MutualInformation,
    OutputVariance,
    PredictiveEntropy,
    PredictiveVariance,
    name_of,
)
from bayes_influence.moments.moments import Moments

LOGITS = torch.tensor([[2.0, 0.5, -1.0], [0.1, 0.2, 0.3]], dtype=torch.float64)
TARGETS = torch.tensor([0, 1])
STEP = 1e-4


def moments(scale=0.5):
    return Moments(LOGITS, scale * torch.tensor([[1.0, 2.0, 0.5], [0.3, 0.1, 3.0]], dtype=torch.float64))


def monte_carlo(outputs, draws=400_000):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(draws, 2, 3, generator=generator, dtype=torch.float64)
    return torch.softmax(outputs.expectation + outputs.variance.sqrt() * noise, dim=-1)


def entropy(p):
    return torch.distributions.Categorical(p).entropy()


def test_deterministic_predictions():
    p = torch.softmax(LOGITS, dim=-1)
    torch.testing.assert_close(PredictiveEntropy()(LOGITS, TARGETS), entropy(p))
    torch.testing.assert_close(PredictiveVariance()(LOGITS, TARGETS), 1 - p.square().sum(-1))
    torch.testing.assert_close(Margin()(LOGITS, TARGETS), torch.tensor([1.5, -0.1], dtype=torch.float64))


def test_bayesian_predictions_match_monte_carlo():
    draws = monte_carlo(moments())
    p = draws.mean(0)
    torch.testing.assert_close(PredictiveEntropy()(moments(), TARGETS), entropy(p), rtol=0, atol=0.005)
    torch.testing.assert_close(PredictiveVariance()(moments(), TARGETS), 1 - p.square().sum(-1), rtol=0, atol=0.005)
    shared = entropy(p) - entropy(draws).mean(0)
    torch.testing.assert_close(MutualInformation()(moments(), TARGETS), shared, rtol=0, atol=0.005)
    torch.testing.assert_close(OutputVariance()(moments(), TARGETS), moments().variance.sum(-1))
    torch.testing.assert_close(Margin()(moments(), TARGETS), Margin()(LOGITS, TARGETS))


def test_without_variance_a_bayesian_prediction_is_deterministic():
    torch.testing.assert_close(PredictiveEntropy()(moments(0.0), TARGETS), PredictiveEntropy()(LOGITS, TARGETS))
    assert MutualInformation()(moments(0.0), TARGETS).abs().max() < 1e-8


@pytest.mark.parametrize("measurement", [MutualInformation(), OutputVariance()])
def test_some_measurements_need_a_bayesian_network(measurement):
    with pytest.raises(TypeError, match="needs a Bayesian network; this one returns Tensor"):
        measurement(LOGITS, TARGETS)


@pytest.mark.parametrize("measurement", [PredictiveEntropy(), PredictiveVariance(), Margin()])
def test_influence_on_a_measurement_is_its_derivative_under_refits(linear, train, test, reweighted, measurement):
    scores = Influence(linear, train, damping=0.0).on_measurement(measurement, test)
    assert scores.measurement == name_of(measurement)
    nudge = torch.zeros(40, dtype=torch.float64)
    nudge[6] = 40 * STEP
    measured = []
    for sign in (1, -1):
        refit = reweighted(linear, train, 1 + sign * nudge)
        measured.append(measurement(refit.outputs(refit.params, test.inputs), test.targets))
    slope = (measured[0] - measured[1]) / (2 * STEP)
    torch.testing.assert_close(scores.values[:, 6], slope, rtol=1e-4, atol=1e-6)


def test_the_loss_is_a_measurement_among_others(linear, train, test):
    influence = Influence(linear, train, damping=0.1)
    values = influence.on_measurement(nn.CrossEntropyLoss(reduction="none"), test).values
    torch.testing.assert_close(values, influence.on_loss(test).values)


def test_a_function_of_the_parameters_needs_no_test_set(linear, train):
    influence = Influence(linear, train, damping=0.0)
    scores = influence.on_measurement(lambda params: params["0.weight"][1, 2])
    assert scores.values.shape == (1, 40)
    torch.testing.assert_close(scores.removal[0], influence.on_parameters()[:, 5])


def test_measurements_that_are_not_scalar_are_refused(linear, train, test):
    influence = Influence(linear, train)
    with pytest.raises(ValueError, match=r"'<lambda>' must be one number per test example, shape \(5,\), got \(5, 3\)"):
        influence.on_measurement(lambda outputs, targets: outputs, test)
    with pytest.raises(ValueError, match=r"must be one number per test example, shape \(5,\), got \(\)"):
        influence.on_measurement(lambda outputs, targets: outputs.sum(), test)
    with pytest.raises(ValueError, match=r"must be one number per test example, shape \(5,\), got float"):
        influence.on_measurement(lambda outputs, targets: 0.5, test)
    with pytest.raises(ValueError, match=r"must be one number, shape \(\), got \(3,\); .* pass `test`"):
        influence.on_measurement(lambda params: params["0.bias"])


def test_a_parameter_measurement_without_gradient_is_refused(linear, train):
    with pytest.raises(ValueError, match="gradient of the measurement '<lambda>' is not finite"):
        Influence(linear, train).on_measurement(lambda params: (params["0.bias"] * 0).sum().sqrt())
