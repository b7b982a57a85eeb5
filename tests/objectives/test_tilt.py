import pytest
import torch
from torch.func import grad, hessian, vmap

from bayes_influence.objectives.tilt import optimal_tilt

MEANS = 2 * torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
SCALES = torch.logspace(-3, 3, 6, dtype=torch.float64).unsqueeze(1)
VARIANCES = SCALES * torch.rand(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def bound(mean, variance, tilt):
    """1/2 sum a^2 v + logsumexp(m + (1 - 2a) v / 2), for any tilt."""
    return 0.5 * (tilt.square() * variance).sum(-1) + torch.logsumexp(mean + (0.5 - tilt) * variance, dim=-1)


def best(mean, variance):
    return bound(mean, variance, optimal_tilt(mean, variance)).sum()


def test_the_tilt_is_its_own_softmax():
    tilt = optimal_tilt(MEANS, VARIANCES)
    again = torch.softmax(MEANS + (0.5 - tilt) * VARIANCES, dim=-1)
    assert (again - tilt).abs().max() < 1e-12
    torch.testing.assert_close(tilt.sum(-1), torch.ones(6, dtype=torch.float64))


def test_without_variance_it_is_the_softmax_and_with_equal_logits_uniform():
    torch.testing.assert_close(optimal_tilt(MEANS, torch.zeros_like(MEANS)), torch.softmax(MEANS, -1))
    equal = torch.full((1, 5), 3.0, dtype=torch.float64)
    torch.testing.assert_close(optimal_tilt(equal, 7 * equal), torch.full_like(equal, 0.2))


def test_no_other_tilt_gives_a_tighter_bound():
    tightest = bound(MEANS, VARIANCES, optimal_tilt(MEANS, VARIANCES))
    for _ in range(50):
        assert (bound(MEANS, VARIANCES, torch.rand_like(MEANS)) >= tightest).all()


def test_float32_is_solved_to_its_own_precision():
    tilt = optimal_tilt(MEANS.float(), VARIANCES.float())
    torch.testing.assert_close(tilt.double(), optimal_tilt(MEANS, VARIANCES), atol=3e-4, rtol=0)


@pytest.mark.parametrize("row", range(5))
def test_the_gradient_is_that_of_the_optimised_bound(row):
    assert torch.autograd.gradcheck(
        best, (MEANS[row : row + 1].clone().requires_grad_(), VARIANCES[row : row + 1].clone().requires_grad_())
    )


@pytest.mark.parametrize("row", range(5))
def test_the_hessian_holds_the_tilts_response(row):
    mean, variance = MEANS[row], VARIANCES[row]

    def value(both):
        return best(both[:4].unsqueeze(0), both[4:].unsqueeze(0))

    both = torch.cat([mean, variance])
    step = 1e-5 * torch.cat([torch.ones(4, dtype=torch.float64), variance])
    differences = [
        (grad(value)(both + direction) - grad(value)(both - direction)) / (2 * direction.sum())
        for direction in torch.diag(step)
    ]
    curvature = hessian(value)(both)
    scale = torch.outer(step, step).sqrt() / 1e-5
    torch.testing.assert_close(curvature * scale, torch.stack(differences) * scale, atol=2e-6, rtol=1e-5)
    fixed = optimal_tilt(mean.unsqueeze(0), variance.unsqueeze(0))[0]
    detached = hessian(lambda m: bound(m, variance, fixed))(mean)
    if row >= 2:
        assert (detached - curvature[:4, :4]).abs().max() > 1e-3 * curvature[:4, :4].abs().max()


def test_members_on_another_axis_get_the_tilts_that_they_get_alone():
    together = vmap(optimal_tilt, in_dims=(1, None), out_dims=1)(MEANS.unsqueeze(1).repeat(1, 2, 1), VARIANCES)
    torch.testing.assert_close(together[:, 1], optimal_tilt(MEANS, VARIANCES), atol=1e-12, rtol=0)
