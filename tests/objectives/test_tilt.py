import pytest
import scipy.special
import torch
from torch.func import grad, hessian, jacrev, vmap

from bayes_influence.objectives import tilt as tilts
from bayes_influence.objectives.tilt import SOLVE_TILT, optimal_tilt, tilt_by_normaliser, tilt_in_line, wright_omega

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


def test_a_class_without_any_share_does_not_end_the_search_for_the_others():
    torch.manual_seed(0)
    mean, variance = 30 * torch.randn(50, 3, dtype=torch.float64), 1e4 * torch.rand(50, 3, dtype=torch.float64) ** 4
    beside = torch.cat([mean, torch.full((50, 1), -1e6, dtype=torch.float64)], dim=1)
    found = optimal_tilt(beside, torch.cat([variance, torch.ones(50, 1, dtype=torch.float64)], dim=1))
    torch.testing.assert_close(found[:, :3], optimal_tilt(mean, variance), rtol=1e-6, atol=1e-9)
    assert float(found[:, 3].max()) == 0


@pytest.mark.parametrize("scale", [10.0, 3e3, 1e4, 1e6, 1e9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_variance_is_solved_and_no_neighbour_gives_a_tighter_bound(scale, dtype):
    generator = torch.Generator().manual_seed(2)
    mean = scale**0.5 * torch.randn(50, 6, generator=generator, dtype=torch.float64)
    variance = scale * torch.rand(50, 6, generator=generator, dtype=torch.float64)
    tilt = optimal_tilt(mean.to(dtype), variance.to(dtype)).double()
    torch.testing.assert_close(tilt.sum(-1), torch.ones_like(tilt[:, 0]), atol=1e-6, rtol=0)
    tightest = bound(mean, variance, tilt)
    rounding = 10 * torch.finfo(dtype).eps * scale
    for size in (1e-4, 0.02, 0.5):
        moved = (tilt + size * torch.rand(tilt.shape, generator=generator, dtype=torch.float64)).softmax(-1)
        toward = tilt + size * (moved - tilt)
        assert (bound(mean, variance, toward) >= tightest - rounding).all()
    vertices = torch.stack([bound(mean, variance, vertex.expand_as(tilt)) for vertex in torch.eye(6).double()])
    assert (tightest <= vertices + rounding).all()


def test_of_equal_variances_without_means_the_tilt_is_uniform_however_large_they_are():
    tilt = optimal_tilt(torch.zeros(1, 4), torch.full((1, 4), 1e7))
    torch.testing.assert_close(tilt, torch.full((1, 4), 0.25))


def test_at_the_largest_variances_the_tilt_is_the_one_of_a_maximum_in_place_of_the_logsumexp():
    # v_c (a_c - 1/2) is then the same for every class, and the a_c sum to one.
    variance = torch.tensor([[3e12, 1e12, 1.5e12]], dtype=torch.float64)
    share = (1 / variance) / (1 / variance).sum()
    torch.testing.assert_close(optimal_tilt(torch.zeros_like(variance), variance), 0.5 - 0.5 * share)


@pytest.mark.parametrize("scale", [0.0, 0.3, 30.0])
def test_both_ways_to_the_tilt_lead_to_one(scale):
    mean, variance = MEANS, scale * torch.rand(6, 4, dtype=torch.float64)
    by_normaliser = tilt_by_normaliser(mean.T.contiguous(), variance.T.contiguous()).T
    torch.testing.assert_close(by_normaliser, optimal_tilt(mean, variance), atol=1e-12, rtol=0)


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("off", [0.0, 1e-3, 1.0])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e2, 1e4, 1e6])
def test_steps_in_line_end_at_the_same_tilt_wherever_they_start(scale, off, dim):
    mean, variance = MEANS.movedim(-1, dim), (scale * torch.rand(6, 4, dtype=torch.float64)).movedim(-1, dim)
    expected = SOLVE_TILT(mean, variance, dim)
    start = (1 - off) * expected + off * torch.rand_like(mean).softmax(dim)
    torch.testing.assert_close(tilt_in_line(mean, variance, dim, start), expected, atol=1e-13, rtol=0)


def test_steps_in_line_go_on_only_where_they_were_not_enough(monkeypatch):
    solved = []
    close = SOLVE_TILT(MEANS, torch.ones_like(MEANS), -1) + 0.01 * torch.rand_like(MEANS)
    monkeypatch.setattr(tilts, "_solve_from", lambda start, *_: solved.append(len(start)) or start)
    tilt_in_line(MEANS, torch.ones_like(MEANS), -1, close)
    assert not solved
    tilt_in_line(MEANS, 1e4 * torch.ones_like(MEANS), -1, close)
    assert solved == [4]


def test_rows_that_are_solved_at_once_keep_their_tilt_beside_one_that_is_not():
    mean = torch.cat([MEANS[:2], MEANS[:1]])
    variance = torch.cat([VARIANCES[:2], torch.full((1, 4), 1e5, dtype=torch.float64)])
    torch.testing.assert_close(optimal_tilt(mean, variance)[:2], optimal_tilt(MEANS[:2], VARIANCES[:2]))


@pytest.mark.parametrize("scale", [30.0, 1e4, 1e8])
def test_the_gradient_of_the_optimised_bound_is_in_closed_form_at_any_variance(scale):
    variance = scale * (0.5 + torch.rand(6, 4, dtype=torch.float64))
    tilt = optimal_tilt(MEANS, variance)
    torch.testing.assert_close(grad(best)(MEANS, variance), tilt, atol=1e-6, rtol=0)
    torch.testing.assert_close(grad(best, 1)(MEANS, variance), 0.5 * tilt * (1 - tilt), atol=1e-6, rtol=0)
    response = vmap(jacrev(lambda m, v: optimal_tilt(m.unsqueeze(0), v.unsqueeze(0))[0]))(MEANS, variance)
    curvature = torch.diag_embed(tilt) - tilt.unsqueeze(-1) * tilt.unsqueeze(-2)
    expected = torch.linalg.solve(torch.eye(4) + curvature * variance.unsqueeze(-2), curvature)
    torch.testing.assert_close(response, expected, atol=1e-9, rtol=1e-4)


def test_omega_is_wrights():
    s = torch.cat([torch.linspace(-90, 90, 1001, dtype=torch.float64), torch.logspace(2, 12, 50, dtype=torch.float64)])
    torch.testing.assert_close(
        wright_omega(s), torch.from_numpy(scipy.special.wrightomega(s.numpy())), rtol=1e-13, atol=0
    )


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_class_without_any_share_leaves_values_and_derivatives_finite(dtype):
    mean = torch.tensor([[0.0, -2000.0, 3.0]], dtype=dtype)
    variance = torch.tensor([[1.0, 2.0, 0.0]], dtype=dtype)
    assert optimal_tilt(mean, variance)[0, 1] == 0
    for derivative in (grad(best), hessian(best), grad(best, 1), hessian(best, 1)):
        assert torch.isfinite(derivative(mean, variance)).all()
