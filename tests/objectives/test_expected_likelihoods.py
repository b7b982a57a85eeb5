from math import log, pi

import numpy as np
import pytest
import torch
from torch.func import grad, vmap

from bayes_influence.moments.moments import Moments
from bayes_influence.moments.softmax import softmax
from bayes_influence.objectives.expected_likelihoods import (
    ExpectedBernoulli,
    ExpectedGaussian,
    ExtendedVI,
    JensenCategorical,
    SobolCategorical,
    TaylorCategorical,
    TiltedCategorical,
    sampled_likelihood,
)
from bayes_influence.objectives.likelihoods import Bernoulli, CrossEntropy, GaussianNoise
from bayes_influence.objectives.quasi_random import sobol_normals
from bayes_influence.torch_internals import make_fx

MEANS = 1.5 * torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
SHAPES = torch.rand(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
TARGETS = torch.arange(8) % 3
LOSSES = {
    "tilted": TiltedCategorical(),
    "jensen": JensenCategorical(),
    "taylor": TaylorCategorical(),
    "sobol": SobolCategorical(),
    "evi": ExtendedVI(),
}


def logits(variance):
    return Moments(MEANS, variance * SHAPES)


def expected_cross_entropy(outputs, targets, nodes=40):
    """E logsumexp(z) - m_y by a product of Gauss-Hermite rules: exact to far below the tolerances here."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    grid = torch.cartesian_prod(*[torch.tensor(points)] * 3)
    weight = torch.cartesian_prod(*[torch.tensor(weights / weights.sum())] * 3).prod(-1)
    drawn = outputs.expectation + outputs.variance.sqrt() * grid.unsqueeze(1)
    expected = (weight.unsqueeze(1) * torch.logsumexp(drawn, -1)).sum(0)
    return expected - outputs.expectation.gather(1, targets.unsqueeze(1)).squeeze(1)


@pytest.mark.parametrize("variance", [0.01, 0.3, 3.0, 30.0])
def test_tilted_and_jensen_bound_the_truth_and_the_tilted_bound_is_tighter(variance):
    outputs = logits(variance)
    truth = expected_cross_entropy(outputs, TARGETS)
    tilted, jensen = TiltedCategorical()(outputs, TARGETS), JensenCategorical()(outputs, TARGETS)
    assert (truth <= tilted + 1e-9).all()
    assert (tilted <= jensen + 1e-9).all()


def test_the_tilted_bound_is_close_where_logits_are_as_certain_as_trained_ones():
    truth = expected_cross_entropy(logits(1.0), TARGETS)
    assert (TiltedCategorical()(logits(1.0), TARGETS) - truth).max() < 0.03


@pytest.mark.parametrize("name", ["tilted", "jensen", "taylor", "sobol"])
def test_without_variance_they_are_the_cross_entropy(name):
    outputs = Moments(MEANS, torch.zeros_like(MEANS))
    expected = torch.nn.functional.cross_entropy(MEANS, TARGETS, reduction="none")
    torch.testing.assert_close(LOSSES[name](outputs, TARGETS), expected, atol=1e-6, rtol=0)


def test_taylor_is_right_to_first_order_and_falls_below_the_truth():
    small = logits(1e-3)
    truth = expected_cross_entropy(small, TARGETS)
    plain = torch.nn.functional.cross_entropy(MEANS, TARGETS, reduction="none")
    taylor = TaylorCategorical()(small, TARGETS)
    assert ((taylor - truth).abs() < 0.01 * (truth - plain)).all()
    equal = Moments(torch.tensor([[6.0, 0.0, 0.0]], dtype=torch.float64), torch.full((1, 3), 30.0).double())
    target = torch.tensor([0])
    assert TaylorCategorical()(equal, target) < 0.1 * expected_cross_entropy(equal, target)


def test_sobol_draws_tend_to_the_truth_and_follow_their_seed():
    outputs = logits(2.0)
    truth = expected_cross_entropy(outputs, TARGETS)
    errors = [(SobolCategorical(n)(outputs, TARGETS) - truth).abs().max() for n in (16, 1024)]
    assert errors[0] < 0.15
    assert errors[1] < 0.005
    assert torch.equal(SobolCategorical()(outputs, TARGETS), SobolCategorical()(outputs, TARGETS))
    assert not torch.equal(SobolCategorical()(outputs, TARGETS), SobolCategorical(seed=1)(outputs, TARGETS))


def test_sobol_draws_are_made_while_the_first_call_is_traced():
    sobol_normals.cache_clear()

    def total(mean, variance):
        return SobolCategorical(12, seed=5)(Moments(mean, variance), TARGETS).sum()

    step = vmap(grad(total, argnums=(0, 1)))
    stacked = torch.stack([MEANS, -MEANS]), torch.stack([SHAPES, SHAPES])
    traced = make_fx(step)(*stacked)
    for from_trace, direct in zip(traced(*stacked), step(*stacked), strict=True):
        torch.testing.assert_close(from_trace, direct)


def test_evi_is_the_density_of_the_one_hot_label_and_no_bound():
    outputs = logits(0.3)
    moments = softmax(outputs, dim=-1)
    one_hot = torch.nn.functional.one_hot(TARGETS, 3).double()
    density = (
        torch.distributions.Normal(moments.expectation, (moments.variance + 0.01).sqrt()).log_prob(one_hot).sum(-1)
    )
    loss = ExtendedVI(0.01)(outputs, TARGETS)
    torch.testing.assert_close(loss, -density - 1.5 * log(2 * pi))
    certain = Moments(torch.tensor([[9.0, 0.0, 0.0]]), torch.full((1, 3), 0.01))
    assert ExtendedVI()(certain, torch.tensor([0])) < 0


def test_expected_gaussian_is_the_mean_over_outputs():
    mean, variance = torch.randn(4, 2, dtype=torch.float64), torch.rand(4, 2, dtype=torch.float64)
    targets = torch.randn(4, 2, dtype=torch.float64)
    drawn = mean + variance.sqrt() * torch.randn(200_000, 4, 2, dtype=torch.float64)
    losses = -torch.distributions.Normal(drawn, 0.7).log_prob(targets).sum(-1)
    expected = ExpectedGaussian(0.7)(Moments(mean, variance), targets)
    assert ((losses.mean(0) - expected).abs() < 5 * losses.std(0) / 200_000**0.5).all()
    flat = ExpectedGaussian(0.7)(Moments(mean[:, 0], variance[:, 0]), targets[:, 0])
    assert flat.shape == (4,)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_differentiable_member_by_member(name):
    def total(mean, variance):
        return LOSSES[name](Moments(mean, variance), TARGETS).sum()

    alone = grad(total, argnums=(0, 1))(MEANS, SHAPES)
    together = vmap(grad(total, argnums=(0, 1)))(torch.stack([MEANS, -MEANS]), torch.stack([SHAPES, SHAPES]))
    for one, both in zip(alone, together, strict=True):
        assert torch.isfinite(both).all()
        torch.testing.assert_close(both[0], one)


@pytest.mark.parametrize("variance", [0.0, 0.1, 30.0, 1e4])
def test_expected_bernoulli_is_the_mean_loss_of_one_draw(variance):
    means = torch.linspace(-8, 8, 5, dtype=torch.float64)
    points = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    weights = torch.exp(-points.square() / 2)
    outputs = Moments(means, torch.full_like(means, variance))
    for label in (0, 1):
        found = ExpectedBernoulli()(outputs, torch.full((5,), label))
        drawn = [Bernoulli()(mean + variance**0.5 * points, torch.full((200_001,), label)) for mean in means]
        exact = torch.stack([weights @ losses for losses in drawn]) / weights.sum()
        torch.testing.assert_close(found, exact, rtol=0, atol=2e-12)


def test_expected_bernoulli_sums_over_labels_and_is_bounded_by_the_tilted_bound_of_two_classes():
    targets = torch.randint(0, 2, (8, 3))
    outputs = logits(0.5)
    alone = [
        ExpectedBernoulli()(Moments(outputs.expectation[:, k], outputs.variance[:, k]), targets[:, k]) for k in range(3)
    ]
    torch.testing.assert_close(ExpectedBernoulli()(outputs, targets), torch.stack(alone).sum(0))
    pair = Moments(
        torch.stack([0 * MEANS[:, 0], MEANS[:, 0]], 1), torch.stack([0 * SHAPES[:, 0], 0.5 * SHAPES[:, 0]], 1)
    )
    bound = TiltedCategorical()(pair, targets[:, 0]) - alone[0]
    assert (bound > -1e-9).all()
    assert bound.max() < 0.02


def test_every_expectation_knows_the_likelihood_of_one_draw():
    for loss in LOSSES.values():
        assert sampled_likelihood(loss) == CrossEntropy()
    assert sampled_likelihood(ExpectedBernoulli()) == Bernoulli()
    assert sampled_likelihood(ExpectedGaussian(0.3)) == GaussianNoise(0.3)
    assert sampled_likelihood(ExpectedGaussian()) == GaussianNoise(1.0)
    with pytest.raises(
        TypeError, match="the likelihood of one draw, and function does not say which that is; take Tilted"
    ):
        sampled_likelihood(expected_cross_entropy)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="n_draws must be at least 1, got 0"):
        SobolCategorical(0)
    with pytest.raises(ValueError, match=r"the eVI noise must be positive, got 0\.0"):
        ExtendedVI(0.0)
    with pytest.raises(ValueError, match=r"the noise scale must be positive, got -1\.0"):
        ExpectedGaussian(-1.0)


@pytest.mark.parametrize("likelihood", [ExpectedGaussian(), ExpectedBernoulli()])
def test_outputs_without_moments_are_refused(likelihood):
    named = type(likelihood).__name__
    with pytest.raises(TypeError, match=f"{named} takes the Moments of a Bayesian network, got Tensor"):
        likelihood.check(torch.zeros(3, 1), torch.zeros(3, 1))


def test_jensens_bound_is_the_logarithm_of_an_expectation():
    """log sum_c E e^{z_c} - m_y, by Gauss-Hermite."""
    points, weights = (torch.tensor(part) for part in np.polynomial.hermite_e.hermegauss(40))
    outputs = logits(0.3)
    drawn = (outputs.expectation.unsqueeze(-1) + outputs.variance.sqrt().unsqueeze(-1) * points).exp()
    expected = ((drawn @ weights) / weights.sum()).sum(-1).log() - outputs.expectation[torch.arange(8), TARGETS]
    torch.testing.assert_close(JensenCategorical()(outputs, TARGETS), expected)


def test_sobol_draws_have_a_slope_where_a_variance_vanishes():
    """That of E logsumexp in v, half its curvature, times the spread that 16 draws have; infinite without a floor."""
    variance = torch.zeros_like(MEANS).requires_grad_()
    SobolCategorical()(Moments(MEANS, variance), TARGETS).sum().backward()
    assert torch.isfinite(variance.grad).all()
