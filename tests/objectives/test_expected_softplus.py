"""E log(1 + e^z) and its derivatives against dense sums over the Gaussian, for every variance that can occur."""

import numpy as np
import pytest
import torch
from scipy.special import expit
from torch.func import grad, hessian, jvp, vmap

from bayes_influence.objectives.expected_softplus import SMALL, expected_softplus, softplus

MEANS = torch.tensor([-50, -30, -20.5, -8, -3, -0.5, 0, 0.5, 3, 8, 19, 20.5, 30, 50], dtype=torch.float64)
VARIANCES = [0, 1e-12, 1e-6, 1e-4, 0.01, 0.99 * SMALL, SMALL, 1.01 * SMALL, 0.1, 1, 4, 10, 30, 100, 1e3, 1e4]


def gaussian_sums(mean, variance, points=200_001):
    """Value and the derivatives m, v, mm, mv, vv: d/dv is half of d^2/dm^2, of which that of log(1 + e^z) is known.

    Equal steps over 12 standard deviations: for a smooth function beside a Gaussian exact to rounding.
    """
    x = np.linspace(-12, 12, points)
    weights = np.exp(-x * x / 2)
    z = mean + np.sqrt(variance) * x
    on, off = expit(z), expit(-z)
    bend = on * off
    each = [np.logaddexp(0, z), on, bend / 2, bend, bend * (off - on) / 2, bend * (1 - 6 * bend) / 4]
    return np.array([weights @ values for values in each]) / weights.sum()


@pytest.mark.parametrize("variance", VARIANCES)
def test_value_and_two_derivatives_are_the_gaussian_sums(variance):
    exact = torch.tensor(np.array([gaussian_sums(float(mean), variance) for mean in MEANS])).T
    variances = torch.full_like(MEANS, variance)
    slopes = vmap(grad(expected_softplus, argnums=(0, 1)))(MEANS, variances)
    (mm, mv), (vm, vv) = vmap(hessian(expected_softplus, argnums=(0, 1)))(MEANS, variances)
    torch.testing.assert_close(expected_softplus(MEANS, variances), exact[0], rtol=1e-14, atol=1e-13)
    for found, right in zip((*slopes, mm, mv, vm), exact[[1, 2, 3, 4, 4]], strict=True):
        torch.testing.assert_close(found, right, rtol=0, atol=2e-14)
    torch.testing.assert_close(vv, exact[5], rtol=0, atol=1e-12)


def test_forward_mode_is_reverse_mode_member_by_member():
    means = torch.stack([MEANS, -0.3 * MEANS])
    variances = torch.rand(2, len(MEANS), dtype=torch.float64) * torch.tensor([[0.05], [50.0]])
    steps = torch.randn_like(means), torch.randn_like(means)

    def total(mean, variance):
        return expected_softplus(mean, variance).sum()

    _, forward = vmap(lambda m, v, dm, dv: jvp(total, (m, v), (dm, dv)))(means, variances, *steps)
    of_mean, of_variance = vmap(grad(total, argnums=(0, 1)))(means, variances)
    torch.testing.assert_close(forward, (of_mean * steps[0] + of_variance * steps[1]).sum(1))


def test_single_precision_loses_nothing_but_the_last_rounding():
    for variance in VARIANCES:
        exact = expected_softplus(MEANS, torch.full_like(MEANS, np.float32(variance)))
        single = expected_softplus(MEANS.float(), torch.full_like(MEANS, variance).float())
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), exact, rtol=1e-7, atol=1e-30)


def test_softplus_is_right_where_torchs_own_is_its_argument():
    z = torch.linspace(-60, 60, 2401, dtype=torch.float64)
    on, off = torch.sigmoid(z), torch.sigmoid(-z)
    torch.testing.assert_close(softplus(z), torch.logaddexp(torch.zeros_like(z), z), rtol=4e-16, atol=0)
    torch.testing.assert_close(vmap(grad(softplus))(z), on, rtol=1e-15, atol=0)
    torch.testing.assert_close(vmap(grad(grad(softplus)))(z), on * off, rtol=0, atol=3e-16)
