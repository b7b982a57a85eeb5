import pytest
import torch
from torch import nn
from torch.func import grad, vmap
from torch.nn import functional

from bayes_influence.moments import Approximation, Moments, UnsupportedOperationError
from bayes_influence.moments.maximum import clark

DOUBLE = torch.float64
CLARK = Approximation("exact", "clark")
POOLINGS = [
    (nn.MaxPool1d(3, stride=2, padding=1), (2, 7)),
    (nn.MaxPool1d(2, ceil_mode=True), (2, 5)),
    (nn.MaxPool2d(2), (2, 4, 5)),
    (nn.MaxPool2d((3, 2), stride=(2, 1), padding=1, dilation=(1, 2), ceil_mode=True), (1, 6, 5)),
    (nn.MaxPool2d(3, stride=3, padding=1, ceil_mode=True), (1, 4, 5)),
    (nn.MaxPool3d(2), (1, 2, 4, 3)),
    (nn.AdaptiveMaxPool1d(3), (2, 7)),
    (nn.AdaptiveMaxPool2d((2, 3)), (1, 5, 4)),
    (nn.AdaptiveMaxPool2d((None, 1)), (1, 3, 4)),
    (nn.AdaptiveMaxPool3d(2), (1, 3, 2, 4)),
]


def random_moments(shape, max_pooling, scale=1.0):
    approximation = Approximation("exact", max_pooling)
    return Moments(torch.randn(shape, dtype=DOUBLE), scale * torch.rand(shape, dtype=DOUBLE), approximation)


def test_clark_is_exact_for_two(draw, assert_match):
    x, y = random_moments((6,), "clark"), random_moments((6,), "clark")
    assert_match(clark(x, y), torch.maximum(draw(x, 300_000), draw(y, 300_000)))


def test_clark_of_a_gaussian_and_zero_is_the_rectifier():
    x = random_moments((5,), "clark")
    zero = Moments(torch.zeros(5, dtype=DOUBLE), torch.zeros(5, dtype=DOUBLE))
    assert torch.allclose(clark(x, zero).expectation, torch.relu(x).expectation)
    assert torch.allclose(clark(x, zero).variance, torch.relu(x).variance)


def test_clark_is_stable_in_single_precision():
    x = Moments(torch.tensor([1000.0, -3.0, 1e-3]), torch.tensor([1e-4, 0.5, 1e-8]))
    y = Moments(torch.tensor([999.99, 4.0, 0.0]), torch.tensor([1e-4, 0.5, 2e-8]))
    double = clark(
        Moments(x.expectation.double(), x.variance.double()), Moments(y.expectation.double(), y.variance.double())
    )
    assert torch.allclose(clark(x, y).variance.double(), double.variance, rtol=2e-2, atol=0)


@pytest.mark.parametrize(("pooling", "shape"), POOLINGS, ids=lambda value: str(value))
def test_both_kinds_are_the_maximum_itself_at_zero_variance(pooling, shape):
    x = random_moments((2, *shape), "clark", scale=0)
    result = pooling(x)
    assert torch.allclose(result.expectation, pooling(x.expectation), atol=2e-6, rtol=0)
    assert torch.equal(result.variance, torch.zeros_like(result.expectation))
    co_pooled = pooling(Moments(x.expectation, x.variance, Approximation(max_pooling="co-pooling")))
    assert torch.equal(co_pooled.expectation, pooling(x.expectation))


@pytest.mark.parametrize(("pooling", "shape"), POOLINGS, ids=lambda value: str(value))
def test_clark_is_close_to_samples_and_co_pooling_is_not(pooling, shape, draw):
    x = random_moments(shape, "clark")
    samples = pooling(draw(x, 20_000))
    deviation = samples.std(0)
    by_clark = pooling(x)
    co_pooled = pooling(Moments(x.expectation, x.variance, Approximation("exact", "co-pooling")))
    error = (by_clark.expectation - samples.mean(0)).abs() / deviation
    # Maxima of more than two are not Gaussian; 0.007 is the standard error of the samples' mean.
    assert error.max() < 0.15
    assert error.mean() < 0.2 * ((co_pooled.expectation - samples.mean(0)).abs() / deviation).mean() + 0.007
    assert ((by_clark.variance / deviation.square()).log().abs()).mean() < 0.15


@pytest.mark.parametrize("pooling", [nn.MaxPool2d(2, padding=1), nn.AdaptiveMaxPool2d(2)], ids=str)
def test_co_pooling_takes_the_variance_of_the_largest_mean(pooling):
    x = random_moments((1, 2, 4, 4), "co-pooling")
    result = pooling(x)
    values, positions = torch.nn.functional.max_pool2d(x.expectation, 2, padding=1, return_indices=True)
    if isinstance(pooling, nn.AdaptiveMaxPool2d):
        values, positions = torch.nn.functional.adaptive_max_pool2d(x.expectation, 2, return_indices=True)
    assert torch.equal(result.expectation, values)
    expected = x.variance.flatten(2).gather(2, positions.flatten(2)).reshape(values.shape)
    assert torch.equal(result.variance, expected)


@pytest.mark.parametrize("max_pooling", ["clark", "co-pooling"])
def test_safe_under_vmap_and_grad(max_pooling):
    x = random_moments((3, 1, 2, 4, 4), max_pooling)
    pooling = nn.MaxPool2d(3, stride=2, padding=1)
    together = vmap(lambda row: pooling(row))(x)
    assert torch.allclose(together.variance[1], pooling(x[1]).variance)

    def total(parts):
        result = pooling(Moments(parts[0], parts[1], x.approximation))
        return (result.expectation + result.variance.square()).sum()

    parts = torch.stack([x.expectation[0], x.variance[0]])
    direction = torch.randn_like(parts)
    difference = (total(parts + 1e-6 * direction) - total(parts - 1e-6 * direction)) / 2e-6
    gradient = grad(total)(parts)
    assert (gradient * direction).sum().item() == pytest.approx(difference.item(), rel=1e-5)
    assert torch.isfinite(gradient).all()


def test_gradients_are_finite_at_ties_and_padding_in_single_precision():
    parts = torch.zeros(2, 1, 1, 3, 3)
    gradient = grad(lambda p: nn.MaxPool2d(2, padding=1)(Moments(p[0], p[1], CLARK)).variance.sum())
    assert torch.isfinite(gradient(parts)).all()


def test_indices_are_refused():
    x = random_moments((1, 4, 4), "clark")
    for pooling in (nn.MaxPool2d(2, return_indices=True), nn.AdaptiveMaxPool2d(2, return_indices=True)):
        with pytest.raises(UnsupportedOperationError, match="max pooling of Moments has no indices"):
            pooling(x)


@pytest.mark.parametrize("dim", [-1, 0, (0, 2)])
@pytest.mark.parametrize("keepdim", [False, True])
def test_the_largest_entry_over_axes(dim, keepdim, draw):
    torch.manual_seed(0)
    for max_pooling in ("co-pooling", "clark"):
        x = random_moments((3, 4, 2), max_pooling)
        result = torch.amax(x, dim, keepdim)
        assert result.shape == torch.amax(x.expectation, dim, keepdim).shape
        if max_pooling == "co-pooling":
            assert torch.equal(result.expectation, torch.amax(x.expectation, dim, keepdim))
            chosen = x.expectation == torch.amax(x.expectation, dim, keepdim=True)
            assert torch.equal(result.variance, torch.amax(torch.where(chosen, x.variance, 0.0), dim, keepdim))
        else:
            samples = torch.stack([torch.amax(sample, dim, keepdim) for sample in draw(x, 4_000)])
            assert ((result.expectation - samples.mean(0)).abs() < 0.1 * samples.std(0)).all()
            assert ((result.variance / samples.var(0)).log().abs() < 0.25).all()


def test_the_larger_of_two_values(draw, assert_match):
    x, y = random_moments((6,), "clark"), random_moments((6,), "clark")
    assert_match(torch.maximum(x, y), torch.maximum(draw(x, 20_000), draw(y, 20_000)))
    rectified = torch.maximum(x, torch.zeros((), dtype=DOUBLE))
    torch.testing.assert_close(rectified.expectation, torch.relu(x).expectation)
    torch.testing.assert_close(torch.max(x, y).variance, torch.maximum(x, y).variance)
    x, y = random_moments((6,), "co-pooling"), random_moments((6,), "co-pooling")
    chosen = torch.where(x.expectation >= y.expectation, x.variance, y.variance)
    assert torch.equal(torch.maximum(x, y).variance, chosen)
    assert torch.equal(x.max().expectation, x.expectation.max())


@pytest.mark.parametrize("call", [lambda x: x.max(dim=0), lambda x: torch.max(x, -1)])
def test_over_an_axis_max_has_positions_and_is_refused(call):
    with pytest.raises(UnsupportedOperationError, match=r"max over an axis returns which entry is the largest, .*amax"):
        call(random_moments((3, 4), "clark"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_clarks_moments_of_half_precision_are_those_of_single_rounded(dtype):
    x = Moments(torch.randn(1, 2, 6).to(dtype), torch.rand(1, 2, 6).to(dtype), Approximation(max_pooling="clark"))
    single = Moments(x.expectation.float(), x.variance.float(), x.approximation)
    found, expected = (functional.max_pool1d(y, 3, stride=2, padding=1) for y in (x, single))
    assert torch.equal(found.expectation, expected.expectation.to(dtype))
    assert torch.equal(found.variance, expected.variance.to(dtype))
