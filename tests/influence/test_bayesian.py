"""Variational influence on L2 Bayesian logistic regression with a quadrature ELBO, against refits of the ELBO."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau, pearsonr
from torch import Tensor, nn

from bayes_influence.curvature.damping import FisherDamping, IdentityDamping
from bayes_influence.data.synthetic import logistic_classes
from bayes_influence.influence.influence import Influence
from bayes_influence.influence.linear_response import linear_response_covariance
from bayes_influence.influence.measurements import OutputVariance
from bayes_influence.influence.memory_perturbation import mean_field_posterior, memory_perturbation
from bayes_influence.moments.convert import to_bayesian
from bayes_influence.moments.moments import Moments
from bayes_influence.objectives.derivatives import dense_hessian
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import GaussianKL
from bayes_influence.training.minimum import minimum_of

N = 80


@dataclass(frozen=True)
class QuadratureLogistic:
    """E softplus(-s f) for f ~ N(m, v) and the sign s of the label, by Gauss-Hermite quadrature with 20 nodes."""

    def __call__(self, outputs: Moments, targets: Tensor) -> Tensor:
        nodes, weights = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(20))
        mean, deviation = outputs.expectation[:, 0], outputs.variance[:, 0].sqrt()
        values = nn.functional.softplus(
            -(2 * targets - 1).unsqueeze(1) * (mean.unsqueeze(1) + deviation.unsqueeze(1) * nodes)
        )
        return values @ (weights / weights.sum())


@pytest.fixture(scope="module")
def split():
    data = logistic_classes(N + 15, n_features=4, n_classes=2, seed=2).dataset
    return data.select(range(N)), data.select(range(N, N + 15))


@pytest.fixture(scope="module")
def elbo(split):
    """At its minimum in means and log standard deviations."""
    torch.manual_seed(0)
    network = to_bayesian(nn.Linear(4, 1).double(), initial_sigma=0.5)
    return minimum_of(Objective(network, QuadratureLogistic(), GaussianKL(N)), split[0])


@pytest.fixture(scope="module")
def refits(elbo, split, reweighted):
    """The ELBO's minimum without each of the first 25 examples."""
    return [reweighted(elbo, split[0], (torch.arange(N) != example).double()) for example in range(25)]


def changes(elbo, refits, measure):
    with torch.no_grad():
        return torch.stack([measure(refit) - measure(elbo) for refit in refits], dim=1)


def flat_pair(estimate, truth):
    return estimate[:, :25].flatten().numpy(), truth.flatten().numpy()


def loss_changes(elbo, refits, test):
    return changes(elbo, refits, lambda at: at.losses(at.params, test.batch()))


def variance_changes(elbo, refits, test):
    return changes(elbo, refits, lambda at: OutputVariance()(at.outputs(at.params, test.inputs), test.targets))


def slope(estimate, truth):
    estimate, truth = flat_pair(estimate, truth)
    return float(estimate @ truth / (truth @ truth))


def test_influence_on_the_elbo_matches_refits(elbo, split, refits):
    train, test = split
    removal = Influence(elbo, train, damping=0.0).on_loss(test).removal
    pair = flat_pair(removal, loss_changes(elbo, refits, test))
    assert pearsonr(*pair).statistic >= 0.99
    assert kendalltau(*pair).statistic >= 0.99


def test_influence_on_the_predictive_variance_matches_refits(elbo, split, refits):
    train, test = split
    removal = Influence(elbo, train, damping=0.0).on_measurement(OutputVariance(), test).removal
    pair = flat_pair(removal, variance_changes(elbo, refits, test))
    assert pearsonr(*pair).statistic >= 0.99
    assert kendalltau(*pair).statistic >= 0.99


def test_damping_by_the_identity_switches_the_variances_off(elbo, split, refits):
    """The log-sigma block of J's Hessian is about 2/n: where both dampings shrink the influence on the losses alike,
    delta I has taken more than twice as much from the influence on the variances as delta times the Fisher of q.
    """
    train, test = split
    lost = {}
    for damping in (IdentityDamping(0.01), FisherDamping(0.001)):
        influence = Influence(elbo, train, damping=damping)
        on_losses = slope(influence.on_loss(test).removal, loss_changes(elbo, refits, test))
        on_variances = influence.on_measurement(OutputVariance(), test).removal
        undamped = Influence(elbo, train, damping=0.0).on_measurement(OutputVariance(), test).removal
        truth = variance_changes(elbo, refits, test)
        assert on_losses == pytest.approx(0.84, abs=0.02)
        lost[type(damping)] = slope(undamped, truth) - slope(on_variances, truth)
    assert lost[IdentityDamping] > 2 * lost[FisherDamping]
    assert lost[FisherDamping] > 0


def test_a_number_damps_variational_parameters_by_the_fisher_of_q(elbo, split):
    assert Influence(elbo, split[0], damping=0.1).damping == FisherDamping(0.1)
    assert isinstance(Influence(elbo, split[0]).damping, FisherDamping)


def test_posterior_mean_influence_freezes_the_variances(elbo, split, refits):
    train, test = split
    scores = Influence(elbo, train, damping=0.0, parameters="means").on_loss(test)
    pair = flat_pair(scores.removal, loss_changes(elbo, refits, test))
    assert pearsonr(*pair).statistic > 0.99
    assert scores.values.shape == (15, N)


def test_linear_response_gives_the_correlations_that_mean_field_has_not(elbo, split):
    train, _ = split
    covariance = linear_response_covariance(Influence(elbo, train, damping=0.0).response)
    inverse = torch.linalg.inv(dense_hessian(elbo, train.batch()))[:5, :5] / N
    torch.testing.assert_close(covariance, inverse, rtol=1e-8, atol=1e-10)
    mean_field = torch.cat([elbo.params[name].flatten() for name in ("weight_rho", "bias_rho")]).exp().square()
    assert (covariance.diagonal() > mean_field).all()  # independent factors are too narrow
    off = covariance - torch.diag(covariance.diagonal())
    assert off.abs().max() > 0.05 * covariance.diagonal().max()


def test_linear_response_needs_variational_means(linear, train):
    with pytest.raises(ValueError, match=r"needs variational means .*to_bayesian"):
        linear_response_covariance(Influence(linear, train).response)


def test_memory_perturbation_of_a_mean_field_posterior(elbo, split, refits):
    """E grad l_i / (1/sigma^2 - E grad^2 l_i): the closed form, and in the direction of the refit of the means."""
    train, _ = split
    moved = memory_perturbation(mean_field_posterior(elbo, train), train.ids[:25])
    data_only = replace(elbo, regulariser_weight=0.0, parameters="means")
    one = train.select([3])
    from bayes_influence.objectives.derivatives import gradient

    slope, curvature = gradient(data_only, one.batch()), dense_hessian(data_only, one.batch()).diagonal()
    sigma = data_only.layout.flatten({name: elbo.params[name + "_rho"].exp() for name in data_only.names})
    torch.testing.assert_close(moved.mean_change[3], slope / (sigma**-2 - curvature))
    torch.testing.assert_close(moved.precision[3], sigma**-2 - curvature)
    truth = torch.stack(
        [data_only.layout.flatten(refit.params) - data_only.layout.flatten(elbo.params) for refit in refits]
    )
    exact = Influence(elbo, train, damping=0.0).on_parameters(train.ids[:25])[:, :5]
    assert pearsonr(moved.mean_change.flatten(), truth.flatten()).statistic > 0.7
    assert (exact - truth).norm() < (moved.mean_change - truth).norm()  # it drops the correlations


def test_mean_field_needs_log_standard_deviations(linear, train):
    with pytest.raises(ValueError, match=r"needs a '_rho' beside every mean, which \['0.weight', '0.bias'\] have not"):
        mean_field_posterior(linear, train)
