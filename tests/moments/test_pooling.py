import pytest
import torch
from torch import nn
from torch.autograd.functional import jacobian
from torch.func import grad, jvp, vmap
from torch.nn import functional

from bayes_influence.moments import Moments

DOUBLE = torch.float64
POOLINGS = [
    (nn.AvgPool1d(2), (2, 5)),
    (nn.AvgPool1d(3, stride=2, padding=1, ceil_mode=True), (2, 6)),
    (nn.AvgPool1d(3, padding=1, count_include_pad=False), (1, 5)),
    (nn.AvgPool2d(2), (2, 4, 5)),
    (nn.AvgPool2d((3, 2), stride=2, padding=1, ceil_mode=True), (1, 5, 4)),
    (nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=True, count_include_pad=False), (1, 6, 5)),
    (nn.AvgPool2d(2, padding=1, divisor_override=3), (1, 3, 3)),
    (nn.AvgPool3d(2, padding=1), (1, 2, 3, 2)),
    (nn.AdaptiveAvgPool1d(3), (2, 7)),
    (nn.AdaptiveAvgPool2d((2, 3)), (1, 5, 4)),
    (nn.AdaptiveAvgPool2d((None, 2)), (1, 3, 5)),
    (nn.AdaptiveAvgPool3d(2), (1, 3, 2, 4)),
]


@pytest.mark.parametrize(("pooling", "shape"), POOLINGS, ids=lambda value: str(value))
def test_variance_is_that_of_the_linear_map(pooling, shape):
    x = Moments(torch.randn(1, *shape, dtype=DOUBLE), torch.rand(1, *shape, dtype=DOUBLE))
    result = pooling(x)
    assert torch.equal(result.expectation, pooling(x.expectation))
    matrix = jacobian(lambda m: pooling(m).flatten(), x.expectation).flatten(1)
    assert torch.allclose(result.variance.flatten(), matrix.square() @ x.variance.flatten())


def test_against_samples(draw, assert_match):
    x = Moments(torch.randn(1, 4, 4, dtype=DOUBLE), torch.rand(1, 4, 4, dtype=DOUBLE))
    assert_match(functional.avg_pool2d(x, 2), functional.avg_pool2d(draw(x, 50_000), 2))


@pytest.mark.parametrize("dim", [None, 1, (0, -1)])
@pytest.mark.parametrize("keepdim", [False, True])
def test_sums_and_means_over_axes(dim, keepdim):
    x = Moments(torch.randn(2, 3, 4, dtype=DOUBLE), torch.rand(2, 3, 4, dtype=DOUBLE))
    for function in (torch.sum, torch.mean):
        result = function(x, dim, keepdim=keepdim)
        assert torch.equal(result.expectation, function(x.expectation, dim, keepdim=keepdim))
        matrix = jacobian(lambda m, f=function: f(m, dim).flatten(), x.expectation).reshape(-1, 24)
        assert torch.allclose(result.variance.flatten(), matrix.square() @ x.variance.flatten())


def test_averages_as_methods_are_those_of_the_function():
    x = Moments(torch.randn(2, 3, 4), torch.rand(2, 3, 4))
    for method, function in ((x.mean, torch.mean), (x.sum, torch.sum)):
        for result in (method(), method(-1), method(dim=(1, 2), keepdim=True)):
            assert isinstance(result, Moments)
        assert torch.equal(method([1, 2]).variance, function(x, (1, 2)).variance)


def test_safe_under_vmap():
    x = Moments(torch.randn(3, 1, 2, 5, 5), torch.rand(3, 1, 2, 5, 5))
    for pooling in (nn.AvgPool2d(2, padding=1), nn.AdaptiveAvgPool2d(2)):
        assert torch.allclose(vmap(lambda row, f=pooling: f(row))(x).variance[2], pooling(x[2]).variance)


@pytest.mark.parametrize(("pool", "shape"), [(functional.avg_pool2d, (6, 8)), (functional.avg_pool3d, (4, 4, 6))])
def test_average_pooling_keeps_no_input_and_differentiates_like_torchs(pool, shape):
    x, direction = torch.randn(2, 3, *shape, dtype=torch.float64)
    kept = []

    def plain(mean):
        return (pool(mean, 2).sin() * pool(mean.square(), 2) / 2 ** len(shape)).sum()

    def propagated(mean):
        pooled = pool(Moments(mean, mean.square()), 2)
        return (pooled.expectation.sin() * pooled.variance).sum()

    for transform in (
        lambda f: grad(f)(x),
        lambda f: jvp(f, (x,), (direction,))[1],
        lambda f: jvp(grad(f), (x,), (direction,))[1],
        lambda f: jvp(lambda at: jvp(f, (at,), (direction,))[1], (x,), (direction,))[1],
    ):
        assert torch.allclose(transform(propagated), transform(plain), atol=1e-12)
    with torch.autograd.graph.saved_tensors_hooks(lambda value: kept.append(value) or value, lambda value: value):
        pool(Moments(x.requires_grad_(), x.detach()), 2)
    assert kept == []


@pytest.mark.parametrize(
    "call",
    [
        lambda x: functional.avg_pool1d(x[:, 0], 3, padding=1),
        lambda x: functional.avg_pool2d(x, 3, padding=1),
        lambda x: functional.avg_pool3d(x.unsqueeze(2), (1, 3, 2)),
        lambda x: x.sum(1),
        lambda x: x.mean(1),
        lambda x: torch.sum(x),
    ],
)
def test_what_is_not_said_is_as_torch_has_it(call):
    x = torch.randn(2, 3, 5, 7, dtype=torch.float64)
    pooled = call(Moments(x, torch.ones_like(x)))
    torch.testing.assert_close(pooled.expectation, call(x))
    assert pooled.variance.shape == call(x).shape
