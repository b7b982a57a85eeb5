"""What likelihoods say of outputs, against torch.distributions, integrals, and two ways to write a binary network."""

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli as BernoulliDistribution
from torch.distributions import Categorical, Normal
from torch.func import vmap

from bayes_influence.moments.moments import Moments
from bayes_influence.objectives.expected_likelihoods import (
    ExpectedBernoulli,
    ExpectedGaussian,
    ExtendedVI,
    JensenCategorical,
    SobolCategorical,
    TaylorCategorical,
    TiltedCategorical,
)
from bayes_influence.objectives.likelihoods import Bernoulli, CrossEntropy, GaussianNoise
from bayes_influence.objectives.predictive import check_outputs, predictive_of

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(7, 3, dtype=torch.float64, generator=GENERATOR)
SPREAD = torch.rand(7, 3, dtype=torch.float64, generator=GENERATOR)
CLASSES = torch.arange(7) % 3
LABELS = torch.randint(0, 2, (7, 3), generator=GENERATOR)
CATEGORICAL = [TiltedCategorical(), JensenCategorical(), TaylorCategorical(), SobolCategorical(), ExtendedVI()]
IDS = torch.arange(100, 107)


def sigmoid_average(mean, variance, function, nodes=60):
    """E function(z) for z ~ N(m, v), elementwise, by Gauss-Hermite quadrature."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    drawn = mean.unsqueeze(-1) + variance.sqrt().unsqueeze(-1) * torch.tensor(points)
    return function(drawn) @ torch.tensor(weights / weights.sum())


def test_classes_of_a_tensor():
    said, q = CrossEntropy(), Categorical(logits=LOGITS)
    torch.testing.assert_close(said.entropy(LOGITS), q.entropy())
    torch.testing.assert_close(said.variance(LOGITS), 1 - q.probs.square().sum(-1))
    torch.testing.assert_close(said.hits(LOGITS, CLASSES), (LOGITS.argmax(1) == CLASSES).double())
    others = [LOGITS[row, [c for c in range(3) if c != CLASSES[row]]].max() for row in range(7)]
    torch.testing.assert_close(said.margin(LOGITS, CLASSES), LOGITS[range(7), CLASSES] - torch.stack(others))


@pytest.mark.parametrize("said", CATEGORICAL)
def test_all_expected_categoricals_say_what_their_sampled_one_says(said):
    outputs = Moments(LOGITS, 0.5 * SPREAD)
    draws = torch.softmax(LOGITS + (0.5 * SPREAD).sqrt() * torch.randn(200_000, 7, 3, dtype=torch.float64), -1)
    q = draws.mean(0)
    torch.testing.assert_close(said.entropy(outputs), Categorical(q).entropy(), rtol=0, atol=0.005)
    torch.testing.assert_close(said.variance(outputs), (q * (1 - q)).sum(-1), rtol=0, atol=0.005)
    shared = Categorical(q).entropy() - Categorical(draws).entropy().mean(0)
    torch.testing.assert_close(said.mutual_information(outputs), shared, rtol=0, atol=0.005)
    assert torch.equal(said.hits(outputs, CLASSES), said.sampled().hits(LOGITS, CLASSES))
    assert torch.equal(said.margin(outputs, CLASSES), said.sampled().margin(LOGITS, CLASSES))


@pytest.mark.parametrize("shape", [(7,), (7, 1)])
def test_one_logit_says_what_two_classes_say(shape):
    logit, targets = LOGITS[:, :1], LABELS[:, 0]
    pair = torch.cat([torch.zeros_like(logit), logit], dim=1)
    one, two = Bernoulli(), CrossEntropy()
    for given in (targets, targets.double(), targets.reshape(7, 1)):
        torch.testing.assert_close(one(logit.reshape(shape), given), two(pair, targets))
        torch.testing.assert_close(one.hits(logit.reshape(shape), given), two.hits(pair, targets))
        torch.testing.assert_close(one.margin(logit.reshape(shape), given), two.margin(pair, targets))
    torch.testing.assert_close(one.entropy(logit.reshape(shape)), two.entropy(pair))
    torch.testing.assert_close(one.variance(logit.reshape(shape)), two.variance(pair))
    assert 0 < one.hits(logit, targets).mean() < 1


def test_labels_add_up_and_all_must_be_right():
    said, q = Bernoulli(), BernoulliDistribution(logits=LOGITS)
    torch.testing.assert_close(said.entropy(LOGITS), q.entropy().sum(1))
    torch.testing.assert_close(said.variance(LOGITS), 2 * q.variance.sum(1))  # one-hot: off and on
    right = (LOGITS > 0) == LABELS.bool()
    torch.testing.assert_close(said.hits(LOGITS, LABELS), right.all(1).double())
    torch.testing.assert_close(said.margin(LOGITS, LABELS), torch.where(LABELS.bool(), LOGITS, -LOGITS).amin(1))


def test_random_labels_against_quadrature():
    said, outputs = ExpectedBernoulli(), Moments(LOGITS, 2 * SPREAD)
    q = sigmoid_average(LOGITS, 2 * SPREAD, torch.sigmoid)
    noise = sigmoid_average(LOGITS, 2 * SPREAD, lambda z: BernoulliDistribution(logits=z).entropy())
    total = BernoulliDistribution(q).entropy()
    torch.testing.assert_close(said.entropy(outputs), total.sum(1), rtol=0, atol=0.005)
    torch.testing.assert_close(said.variance(outputs), (2 * q * (1 - q)).sum(1), rtol=0, atol=0.005)
    torch.testing.assert_close(said.mutual_information(outputs), (total - noise).sum(1), rtol=0, atol=0.005)
    assert torch.equal(said.hits(outputs, LABELS), Bernoulli().hits(LOGITS, LABELS))


def test_real_numbers_have_a_gaussian_predictive_distribution():
    scale = 0.7
    q = Normal(LOGITS, torch.sqrt(scale**2 + SPREAD))
    said, outputs = ExpectedGaussian(scale), Moments(LOGITS, SPREAD)
    torch.testing.assert_close(said.entropy(outputs), q.entropy().sum(1))
    torch.testing.assert_close(said.variance(outputs), q.variance.sum(1))
    noise = Normal(LOGITS, torch.full_like(LOGITS, scale)).entropy()
    torch.testing.assert_close(said.mutual_information(outputs), (q.entropy() - noise).sum(1))
    torch.testing.assert_close(GaussianNoise(scale).entropy(LOGITS), noise.sum(1))
    torch.testing.assert_close(GaussianNoise(scale).variance(LOGITS[:, 0]), torch.full((7,), scale**2).double())
    assert said.hits(outputs, LOGITS).isnan().all()
    with pytest.raises(TypeError, match="GaussianNoise predicts real numbers, which have no margin"):
        GaussianNoise().margin(LOGITS, LOGITS)


def test_learned_noise_is_in_the_second_half_of_the_outputs():
    log_scale = LOGITS.new_tensor([0.3, -0.5, 0.1]).expand(7, 3)
    outputs = torch.cat([LOGITS, log_scale], dim=1)
    expected = Normal(LOGITS, log_scale.exp()).entropy().sum(1)
    torch.testing.assert_close(GaussianNoise(None).entropy(outputs), expected)
    moments = Moments(outputs, torch.cat([SPREAD, torch.zeros_like(SPREAD)], dim=1))
    expected = Normal(LOGITS, ((2 * log_scale).exp() + SPREAD).sqrt()).entropy().sum(1)
    torch.testing.assert_close(ExpectedGaussian(None).entropy(moments), expected)


def test_without_variance_outputs_share_nothing_with_the_target():
    certain = Moments(LOGITS, torch.zeros_like(LOGITS))
    for said, plain in ((TiltedCategorical(), CrossEntropy()), (ExpectedBernoulli(), Bernoulli())):
        torch.testing.assert_close(said.entropy(certain), plain.entropy(LOGITS))
        assert said.mutual_information(certain).abs().max() < 1e-8


def test_hits_are_those_of_every_member_under_vmap():
    together = vmap(Bernoulli().hits)(torch.stack([LOGITS, -LOGITS]), torch.stack([LABELS, LABELS]))
    assert torch.equal(together[1], Bernoulli().hits(-LOGITS, LABELS))


FITS = [
    (CrossEntropy(), LOGITS, CLASSES),
    (TiltedCategorical(), Moments(LOGITS, SPREAD), CLASSES),
    (Bernoulli(), LOGITS, LABELS),
    (Bernoulli(), LOGITS[:, 0], LABELS[:, 0]),
    (Bernoulli(), LOGITS[:, :1], LABELS[:, 0].float()),
    (ExpectedBernoulli(), Moments(LOGITS, SPREAD), LABELS),
    (GaussianNoise(), LOGITS, LOGITS),
    (ExpectedGaussian(), Moments(LOGITS, SPREAD), LOGITS),
]


@pytest.mark.parametrize(("said", "outputs", "targets"), FITS)
def test_what_fits_is_taken_and_one_example_of_outputs_is_enough(said, outputs, targets):
    check_outputs(said, outputs, targets, "wine", IDS)
    check_outputs(said, outputs[:1] if isinstance(outputs, torch.Tensor) else first(outputs), targets, "wine", IDS)
    assert said(outputs, targets).shape == (7,)


def first(outputs):
    return Moments(outputs.expectation[:1], outputs.variance[:1])


REFUSED = [
    (CrossEntropy(), LOGITS[:, :1], CLASSES, ValueError, r"got shape \(n, 1\); one logit of two classes is Bernoulli"),
    (CrossEntropy(), LOGITS[:, 0], CLASSES, ValueError, r"got shape \(n,\); one logit .* a real number Gauss"),
    (CrossEntropy(), LOGITS.reshape(7, 3, 1), CLASSES, ValueError, r"got shape \(n, 3, 1\); take a likelihood of your"),
    (CrossEntropy(), LOGITS, CLASSES.double(), TypeError, r"class indices, int64, got torch.float64 of shape \(7,\)"),
    (CrossEntropy(), LOGITS, torch.softmax(LOGITS, 1), TypeError, "likelihood of your own for soft labels"),
    (CrossEntropy(), LOGITS, CLASSES.to(torch.uint8), TypeError, r"got torch.uint8 .*; take targets.long\(\)"),
    (CrossEntropy(), LOGITS, CLASSES.unsqueeze(1), ValueError, r"shape \(7,\), got \(7, 1\); take targets.flatten\(\)"),
    (
        CrossEntropy(),
        LOGITS,
        torch.eye(3)[CLASSES].long(),
        ValueError,
        r"got \(7, 3\); .* targets.argmax\(1\) for one-h",
    ),
    (CrossEntropy(), LOGITS, CLASSES + 1, ValueError, r"in 0\.\.2, .* got 3 \(2 of 7 .* first is id 102\); number the"),
    (
        CrossEntropy(),
        LOGITS,
        CLASSES - 100,
        ValueError,
        r"got -100 \(7 of 7 examples do not fit, the first is id 100\)",
    ),
    (CrossEntropy(), Moments(LOGITS, SPREAD), CLASSES, TypeError, "tensor of a deterministic network, got the Moments"),
    (CrossEntropy(), (LOGITS,), CLASSES, TypeError, "got tuple; return the outputs alone"),
    (
        TiltedCategorical(),
        LOGITS,
        CLASSES,
        TypeError,
        "Moments of a Bayesian network, got Tensor; make it one with to_",
    ),
    (Bernoulli(), LOGITS, CLASSES, ValueError, r"logits of shape \(3,\) and targets of shape \(\); take CrossEnt"),
    (
        Bernoulli(),
        LOGITS.unsqueeze(2),
        LABELS.unsqueeze(2),
        ValueError,
        r"logits of shape \(3, 1\) and targets of",
    ),
    (
        Bernoulli(),
        LOGITS,
        LABELS.unsqueeze(2),
        ValueError,
        r"logits of shape \(3,\) and targets of shape \(3, 1\)",
    ),
    (Bernoulli(), LOGITS[:, 0], 2 * LABELS[:, 0] - 1, ValueError, r"0 or 1, got -1 .*; take \(targets \+ 1\) / 2"),
    (Bernoulli(), LOGITS, LABELS + torch.eye(7, 3).long() * (2 - LABELS), ValueError, r"got 2 \(3 of 7 .* id 100\)"),
    (Bernoulli(), LOGITS, LABELS * 0.5, ValueError, r"got 0\.5 .* a likelihood of your own for soft ones"),
    (Bernoulli(), Moments(LOGITS, SPREAD), LABELS, TypeError, "Bernoulli takes the tensor of a deterministic network"),
    (
        GaussianNoise(),
        LOGITS,
        LABELS,
        TypeError,
        r"real targets, got torch.int64; take targets.to\(torch.float32\), or",
    ),
    (GaussianNoise(), LOGITS[:, :1], LOGITS[:, 0], ValueError, r"means \(7, 1\), got \(7,\); give them a column"),
    (GaussianNoise(None), LOGITS[:, :2], LOGITS, ValueError, r"predicted means \(7, 1\), got \(7, 3\)"),
]


@pytest.mark.parametrize(("said", "outputs", "targets", "error", "message"), REFUSED)
def test_what_does_not_fit_is_refused_with_data_set_and_example(said, outputs, targets, error, message, as_installed):
    with pytest.raises(error, match=message) as caught:
        check_outputs(said, outputs, targets, "wine", IDS)
    assert type(said).__name__ in str(caught.value) or "wine" in str(caught.value)


def test_without_ids_the_position_is_named():
    with pytest.raises(ValueError, match=r"the batch: CrossEntropy .* the first is example 2"):
        check_outputs(CrossEntropy(), LOGITS, CLASSES + 1)


def test_a_function_of_the_users_own_says_nothing():
    def squared(outputs, targets):
        return (outputs - targets).square().sum(-1)

    check_outputs(squared, LOGITS, CLASSES)
    with pytest.raises(TypeError, match=r"PredictiveEntropy depends on .* the likelihood 'squared' does not say; take"):
        predictive_of(squared, "PredictiveEntropy")
    assert predictive_of(CrossEntropy(), "anything") == CrossEntropy()
