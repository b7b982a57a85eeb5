"""Measurements against closed forms, Monte Carlo and refits; what is not a measurement is refused."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from bayes_influence.data.dataset import Dataset
from bayes_influence.influence.influence import Influence
from bayes_influence.influence.measurements import (
    EpistemicDeviation,
    Margin,
    MutualInformation,
    OutputVariance,
    PredictedValue,
    PredictiveEntropy,
    PredictiveVariance,
    name_of,
)
from bayes_influence.moments.moments import Moments
from bayes_influence.objectives.expected_likelihoods import TiltedCategorical
from bayes_influence.objectives.likelihoods import Bernoulli, CrossEntropy, GaussianNoise
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay
from bayes_influence.training.minimum import minimum_of

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
    torch.testing.assert_close(PredictiveEntropy(CrossEntropy())(LOGITS, TARGETS), entropy(p))
    torch.testing.assert_close(PredictiveVariance(CrossEntropy())(LOGITS, TARGETS), 1 - p.square().sum(-1))
    torch.testing.assert_close(Margin(CrossEntropy())(LOGITS, TARGETS), torch.tensor([1.5, -0.1], dtype=torch.float64))


def test_bayesian_predictions_match_monte_carlo():
    draws = monte_carlo(moments())
    p = draws.mean(0)
    torch.testing.assert_close(
        PredictiveEntropy(TiltedCategorical())(moments(), TARGETS), entropy(p), rtol=0, atol=0.005
    )
    torch.testing.assert_close(
        PredictiveVariance(TiltedCategorical())(moments(), TARGETS), 1 - p.square().sum(-1), rtol=0, atol=0.005
    )
    shared = entropy(p) - entropy(draws).mean(0)
    torch.testing.assert_close(MutualInformation(TiltedCategorical())(moments(), TARGETS), shared, rtol=0, atol=0.005)
    torch.testing.assert_close(OutputVariance()(moments(), TARGETS), moments().variance.sum(-1))
    torch.testing.assert_close(Margin(TiltedCategorical())(moments(), TARGETS), Margin(CrossEntropy())(LOGITS, TARGETS))


def test_without_variance_a_bayesian_prediction_is_deterministic():
    torch.testing.assert_close(
        PredictiveEntropy(TiltedCategorical())(moments(0.0), TARGETS),
        PredictiveEntropy(CrossEntropy())(LOGITS, TARGETS),
    )
    assert MutualInformation(TiltedCategorical())(moments(0.0), TARGETS).abs().max() < 1e-8


@pytest.mark.parametrize("measurement", [MutualInformation(TiltedCategorical()), OutputVariance()])
def test_some_measurements_need_a_bayesian_network(measurement):
    with pytest.raises(TypeError, match="needs a Bayesian network; this one returns Tensor"):
        measurement(LOGITS, TARGETS)


@pytest.mark.parametrize("kind", [PredictiveEntropy, PredictiveVariance, Margin])
def test_influence_on_a_measurement_is_its_derivative_under_refits(linear, train, test, reweighted, kind):
    measurement = kind(CrossEntropy())
    scores = Influence(linear, train, damping=0.0).on_measurement(kind(), test)
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


def test_the_predicted_number_is_the_mean_without_the_noise_beside_it():
    outputs = Moments(LOGITS[:, :2], torch.ones(2, 2, dtype=torch.float64))
    assert PredictedValue(GaussianNoise(1.0))(outputs, TARGETS).tolist() == [2.5, pytest.approx(0.3)]
    assert PredictedValue(GaussianNoise(None))(LOGITS[:, :2], TARGETS).tolist() == [2.0, 0.1]
    assert PredictedValue(GaussianNoise(1.0), target=1)(outputs, TARGETS).tolist() == LOGITS[:, 1].tolist()
    with pytest.raises(TypeError, match="CrossEntropy predicts classes, no number; measure the margin or the loss"):
        PredictedValue(CrossEntropy())(LOGITS, TARGETS)


def test_a_measurement_of_all_examples_is_that_of_the_networks_outputs(linear, test):
    """Examples in single precision go through a network in double."""
    logits = linear.outputs(linear.params, test.inputs)
    own = logits.gather(1, test.targets[:, None])[:, 0]
    others = logits.scatter(1, test.targets[:, None], -torch.inf).amax(dim=1)
    found = Margin().at(linear, test.to(dtype=torch.float32))
    torch.testing.assert_close(found, own - others, rtol=1e-5, atol=1e-6)
    assert found.dtype == torch.float64
    assert not found.requires_grad


def test_epistemic_deviations_are_roots_of_the_outputs_variances():
    """With learned noise two means and two logarithms of s, of which v is the means' variance."""
    means = torch.tensor([[1.0, 2.0, 0.0, -1.0], [0.0, 3.0, 1.0, 0.5]], dtype=torch.float64)
    outputs = Moments(means, torch.tensor([[0.25, 4.0, 9.0, 9.0], [1.0, 0.0, 9.0, 9.0]], dtype=torch.float64))
    learned = GaussianNoise(None)
    for target in (0, 1):
        found = EpistemicDeviation(learned, target=target)(outputs, TARGETS)
        torch.testing.assert_close(found, outputs.variance[:, target].sqrt())
    both = EpistemicDeviation(learned)(outputs, TARGETS)
    torch.testing.assert_close(both, outputs.variance[:, :2].sum(-1).sqrt())
    with pytest.raises(TypeError, match="the epistemic deviation"):
        EpistemicDeviation(learned)(means, TARGETS)
    with pytest.raises(TypeError, match="CrossEntropy predicts classes, no number; measure the mutual information"):
        EpistemicDeviation(CrossEntropy())(LOGITS, TARGETS)


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


KINDS = [PredictiveEntropy, PredictiveVariance, Margin]


@pytest.mark.parametrize("kind", KINDS)
def test_one_logit_has_the_influence_of_two_classes(kind, train, test):
    train, test = (replace(data, targets=(data.targets == 0).long(), class_names=()) for data in (train, test))
    one = Objective(nn.Linear(3, 1).double(), Bernoulli())
    weight, bias = one.params["weight"], one.params["bias"]
    two = Objective(nn.Linear(3, 2).double(), CrossEntropy())
    two = two.at({"weight": torch.cat([0 * weight, weight]), "bias": torch.cat([0 * bias, bias])})
    found = Influence(one, train, damping=0.1).on_measurement(kind(), test).values
    # With z = z_1 - z_0 the curvature in (w_0, w_1) along (-1, 1) is twice that in w, and so is what damping it takes.
    expected = Influence(two, train, damping=0.2).on_measurement(kind(), test).values
    torch.testing.assert_close(found, expected)
    assert found.abs().max() > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_under_a_likelihood_that_does_not_say_they_are_refused(kind, linear, train, test):
    own = replace(linear, likelihood=nn.CrossEntropyLoss(reduction="none"))
    with pytest.raises(TypeError, match=f"{kind.__name__} depends on .* likelihood 'CrossEntropyLoss' does not say"):
        Influence(own, train, damping=0.1).on_measurement(kind(), test)
    named = Influence(own, train, damping=0.1).on_measurement(kind(CrossEntropy()), test).values
    torch.testing.assert_close(named, Influence(linear, train, damping=0.1).on_measurement(kind(), test).values)
    with pytest.raises(TypeError, match=rf"name the likelihood, as {kind.__name__}\(CrossEntropy\(\)\)"):
        kind()(LOGITS, TARGETS)


def test_a_measurement_that_is_constant_in_the_outputs_is_said_to_have_no_influence(caplog):
    """The predictive variance under Gaussian noise of known size is that size, whatever the network says."""
    torch.manual_seed(0)
    inputs = torch.randn(12, 3, dtype=torch.float64)
    data = Dataset(inputs, torch.randn(12, 1, dtype=torch.float64), torch.arange(12))
    fitted = minimum_of(Objective(nn.Linear(3, 1).double(), GaussianNoise(0.5), WeightDecay(0.1)), data)
    found = Influence(fitted, data, damping=0.0).on_measurement(PredictiveVariance(), data)
    assert not found.values.any()
    assert "the PredictiveVariance has no slope in the selected parameters at any test example" in caplog.text
