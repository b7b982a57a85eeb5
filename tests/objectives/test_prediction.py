"""Predictions against samples and closed forms; what is no prediction of classes is refused."""

import numpy as np
import pytest
import torch
from torch import nn

import bayes_influence as bi
from bayes_influence.moments import Moments, to_bayesian, to_deterministic
from bayes_influence.objectives.expected_likelihoods import ExpectedBernoulli, ExpectedGaussian
from bayes_influence.objectives.prediction import (
    MODES,
    classes_of,
    entropy,
    mutual_information,
    predict,
    probit_probabilities,
)
from bayes_influence.training.noise import LearnedNoise

DOUBLE = torch.float64


def small(initial_sigma=0.3, method="exact"):
    network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    return bi.Objective(to_bayesian(network, method=method, initial_sigma=initial_sigma), bi.TiltedCategorical())


def draw(moments, n):
    noise = torch.randn(n, *moments.shape, dtype=moments.dtype)
    return moments.expectation + moments.variance.sqrt() * noise


@pytest.fixture
def x():
    return torch.randn(6, 4, dtype=DOUBLE)


def test_probit_probabilities_against_sampled_logits():
    logits = Moments(torch.tensor([[1.0, 0.0]], dtype=DOUBLE), torch.tensor([[2.0, 0.0]], dtype=DOUBLE))
    exact = torch.softmax(draw(logits, 200_000), -1).mean(0)
    assert torch.allclose(probit_probabilities(logits), exact, atol=0.01)
    certain = Moments(logits.expectation, torch.zeros_like(logits.expectation))
    assert torch.equal(probit_probabilities(certain), torch.softmax(logits.expectation, -1))


def test_entropy_and_mutual_information_in_closed_form():
    assert entropy(torch.full((2, 4), 0.25, dtype=DOUBLE))[0].item() == pytest.approx(torch.tensor(4.0).log().item())
    assert entropy(torch.tensor([1.0, 0.0])).item() == 0
    uniform = Moments(torch.zeros(1, 2, dtype=DOUBLE), torch.full((1, 2), 0.01, dtype=DOUBLE))
    assert mutual_information(uniform).item() == pytest.approx(0.5 * (0.01 - 0.5 * 0.01))


def test_mutual_information_against_samples():
    logits = Moments(torch.randn(3, 4, dtype=DOUBLE), torch.full((3, 4), 0.02, dtype=DOUBLE))
    samples = torch.softmax(draw(logits, 400_000), -1)
    exact = entropy(samples.mean(0)) - entropy(samples).mean(0)
    assert torch.allclose(mutual_information(logits), exact, rtol=0.05)


@pytest.mark.parametrize("averaging", ["probit", "sampled"])
@pytest.mark.parametrize("mode", MODES)
def test_predictions_split_their_uncertainty(mode, averaging, x):
    result = predict(small(initial_sigma=1.0), x, mode=mode, averaging=averaging)
    assert result.logits.shape == (6, 3)
    assert torch.allclose(result.probabilities.sum(-1), torch.ones(6, dtype=DOUBLE))
    assert torch.equal(result.classes, result.probabilities.argmax(-1))
    assert torch.allclose(result.total, entropy(result.probabilities))
    assert torch.allclose(result.epistemic + result.aleatoric, result.total)
    assert (result.epistemic >= 0).all()
    assert (result.aleatoric >= 0).all()


def test_modes_and_averages_agree_where_they_should(x):
    network = small(initial_sigma=0.2)
    referee = predict(network, x, mode="sampled", n_samples=4_000)
    for mode in ("diagonal", "linearized"):
        for averaging in ("probit", "sampled"):
            result = predict(network, x, mode=mode, averaging=averaging)
            assert torch.allclose(result.probabilities, referee.probabilities, atol=0.01)
            assert torch.allclose(result.epistemic, referee.epistemic, atol=0.005)


@pytest.mark.parametrize("averaging", ["probit", "sampled"])
def test_logits_whose_covariance_is_followed_are_drawn_together(averaging, x):
    """All logits hang on one hidden unit h ~ N(m, v): p = E softmax(w h + b), by Gauss-Hermite quadrature over h."""
    network = nn.Sequential(nn.Linear(4, 1), nn.Linear(1, 3)).double()
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[1.0], [0.8], [-0.5]]))
    predicted = {}
    for structure in ("covariance", "diagonal"):
        twin = to_bayesian(network, method="exact", structure=structure, initial_sigma=0.6).eval()
        with torch.no_grad():
            twin[1].weight_rho.fill_(-20.0)
            twin[1].bias_rho.fill_(-20.0)
        predicted[structure] = predict(
            bi.Objective(twin, bi.TiltedCategorical()), x, mode="diagonal", averaging=averaging
        )
        hidden = twin[0](x)
    points, weights = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(60))
    h = hidden.expectation + hidden.variance.sqrt() * points
    each = torch.softmax(h.unsqueeze(-1) * network[1].weight[:, 0] + network[1].bias, dim=-1).detach()
    expected = torch.einsum("bsc,s->bc", each, weights / weights.sum())
    information = entropy(expected) - torch.einsum("bs,s->b", entropy(each), weights / weights.sum())
    found, independent = predicted["covariance"], predicted["diagonal"]
    torch.testing.assert_close(found.probabilities, expected, rtol=0, atol=0.004)
    torch.testing.assert_close(found.epistemic, information, rtol=0, atol=0.01)
    assert float((independent.probabilities - expected).abs().max()) > 0.02
    torch.testing.assert_close(found.logits.variance, independent.logits.variance)


def test_a_certain_network_has_no_epistemic_uncertainty(x):
    objective = small()
    certain = {name: p - (1e4 if name.endswith("_rho") else 0) for name, p in objective.params.items()}
    for mode in MODES:
        result = predict(objective.at(certain), x, mode=mode)
        assert torch.allclose(result.epistemic, torch.zeros(6, dtype=DOUBLE), atol=1e-12)
        assert torch.allclose(result.probabilities, torch.softmax(to_deterministic(objective.network)(x), -1))


def test_sampled_predictions_repeat_with_the_seed(x):
    network = small()
    first, again, other = (
        predict(network, x, mode="sampled", n_samples=8, generator=torch.Generator().manual_seed(seed)).probabilities
        for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_bad_requests_are_refused(x):
    with pytest.raises(ValueError, match="unknown prediction mode 'exact'; known: diagonal, linearized, sampled"):
        predict(small(), x, mode="exact")
    with pytest.raises(ValueError, match="unknown averaging 'mean'; known: probit, sampled"):
        predict(small(), x, averaging="mean")


@pytest.mark.parametrize("mode", MODES)
def test_a_deterministic_network_predicts_what_it_says_without_epistemic_uncertainty(x, mode):
    network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    result = predict(bi.Objective(network, bi.CrossEntropy()), x, mode=mode)
    expected = torch.softmax(network(x), -1)
    torch.testing.assert_close(result.probabilities, expected)
    torch.testing.assert_close(result.aleatoric, -(expected * expected.log()).sum(-1))
    assert not result.epistemic.any()
    labels = predict(bi.Objective(network, bi.Bernoulli()), x, mode=mode)
    torch.testing.assert_close(labels.probabilities[..., 1], torch.sigmoid(network(x)))
    assert labels.epistemic.shape == (6,)


@pytest.mark.parametrize("mode", MODES)
def test_real_numbers_are_predicted_with_the_variances_of_noise_and_output(x, mode):
    """Of one linear layer every mode is exact: the output's variance is x^2 sigma_w^2 + sigma_b^2."""
    network = to_bayesian(nn.Linear(4, 2).double(), initial_sigma=0.5)
    learned = LearnedNoise(network, 2, initial=0.3)
    result = predict(bi.Objective(learned, ExpectedGaussian(None)), x, mode=mode, n_samples=5000)
    params = dict(network.named_parameters())
    variance = x.square() @ params["weight_rho"].exp().square().T + params["bias_rho"].exp().square()
    rtol = 0.15 if mode == "sampled" else 1e-9
    torch.testing.assert_close(result.epistemic, variance.detach(), rtol=rtol, atol=0)
    torch.testing.assert_close(result.noise, torch.full_like(result.noise, 0.09))
    low, high = result.interval(0.95)
    torch.testing.assert_close((high - low) / 2, 1.959964 * (0.09 + result.epistemic).sqrt())
    torch.testing.assert_close((high + low) / 2, result.mean)
    with pytest.raises(ValueError, match="a probability between 0 and 1, got 95"):
        result.interval(95)


def test_a_deterministic_regression_has_the_noise_of_its_likelihood(x):
    network = nn.Linear(4, 2).double()
    result = predict(bi.Objective(network, bi.GaussianNoise(0.5)), x)
    torch.testing.assert_close(result.mean, network(x).detach())
    torch.testing.assert_close(result.deviation, torch.full_like(result.mean, 0.5))
    assert not result.epistemic.any()


def test_what_does_not_say_that_outputs_are_classes_is_refused(x, as_installed):
    network = small().network
    with pytest.raises(TypeError, match=r"predict takes an Objective.* got Sequential; .* Objective\(network, Tilted"):
        predict(network, x)
    with pytest.raises(TypeError, match="a prediction of classes is asked for, and ExpectedGaussian means real"):
        classes_of(bi.Objective(network, ExpectedGaussian()))
    with pytest.raises(TypeError, match=r"a prediction depends on .* the likelihood 'own' does not say"):
        predict(bi.Objective(network, own), x)


def own(outputs, targets):
    return outputs.expectation.sum(-1)


@pytest.mark.parametrize("averaging", ["probit", "sampled"])
@pytest.mark.parametrize("mode", MODES)
def test_one_logit_is_two_classes(mode, averaging, x):
    network = to_bayesian(nn.Linear(4, 1).double(), initial_sigma=0.5)
    result = predict(bi.Objective(network, ExpectedBernoulli()), x, mode=mode, averaging=averaging, n_samples=4000)
    p = torch.sigmoid(draw(network.eval()(x).flatten(1), 200_000)).mean(0).squeeze(1)
    assert result.probabilities.shape == (6, 2)
    assert torch.allclose(result.probabilities[:, 1], p, atol={"probit": 0.01, "sampled": 0.03}[averaging])
    assert torch.equal(result.classes, (network(x).expectation.squeeze(1) > 0).long())
    assert torch.allclose(result.total, torch.distributions.Bernoulli(result.probabilities[:, 1]).entropy())
    assert (result.epistemic > 0).all()


def test_labels_have_a_prediction_each_and_their_uncertainties_add_up(x):
    network = to_bayesian(nn.Linear(4, 3).double(), initial_sigma=0.5).eval()
    result = predict(bi.Objective(network, ExpectedBernoulli()), x)
    assert result.probabilities.shape == (6, 3, 2)
    assert result.classes.shape == (6, 3)
    p = torch.sigmoid(network(x).expectation / torch.sqrt(1 + torch.pi / 8 * network(x).variance))
    assert torch.allclose(result.probabilities[..., 1], p)
    assert torch.allclose(result.total, torch.distributions.Bernoulli(p).entropy().sum(1))
    one = torch.softmax(torch.stack([torch.zeros(6, 3), network(x).expectation], -1), -1)[..., 1]
    assert torch.allclose(result.epistemic, (0.5 * one * (1 - one) * network(x).variance).sum(1))


@pytest.mark.parametrize("wrong", [{"mode": "exact"}, {"averaging": "mean"}])
def test_ways_that_there_are_not_are_refused_of_real_outputs_too(wrong):
    objective = bi.Objective(nn.Linear(2, 1).double(), bi.GaussianNoise(1.0))
    with pytest.raises(ValueError, match=f"unknown .*'{next(iter(wrong.values()))}'; known: "):
        predict(objective, torch.zeros(3, 2, dtype=torch.float64), **wrong)


@pytest.mark.parametrize("mode", MODES)
def test_inputs_in_single_precision_are_taken_in_that_of_the_network(x, mode):
    bayesian = small()
    own = bi.Objective(to_deterministic(bayesian.network), bi.CrossEntropy())
    for objective in (bayesian, own):
        for inputs in (x.float(), Moments(x.float(), x.float().square())) if objective is bayesian else (x.float(),):
            found, expected = (predict(objective, each, mode=mode) for each in (inputs, inputs.to(DOUBLE)))
            assert torch.equal(found.probabilities, expected.probabilities)
