import pytest
import torch
from torch import nn
from torch.autograd.functional import jacobian
from torch.nn import functional

from bayes_influence.moments import Approximation, Moments, UnsupportedOperationError

DOUBLE = torch.float64


def randomised(layer):
    layer = layer.double().eval()
    for tensor in [*layer.parameters(), *layer.buffers()]:
        if tensor.is_floating_point():
            tensor.data.copy_(torch.rand_like(tensor) + 0.5)
    return layer


LAYERS = [
    (lambda: nn.LayerNorm(5), (2, 5)),
    (lambda: nn.LayerNorm((2, 3), eps=0.1), (2, 2, 3)),
    (lambda: nn.LayerNorm(4, elementwise_affine=False), (1, 3, 4)),
    (lambda: nn.GroupNorm(2, 4), (2, 4, 3)),
    (lambda: nn.GroupNorm(1, 3, affine=False), (1, 3, 2, 2)),
    (lambda: nn.InstanceNorm1d(3, affine=True), (1, 3, 4)),
    (lambda: nn.InstanceNorm2d(2), (2, 2, 2, 2)),
    (lambda: nn.InstanceNorm2d(2, affine=True, track_running_stats=True), (1, 2, 2, 3)),
    (lambda: nn.RMSNorm(4), (2, 4)),
    (lambda: nn.RMSNorm((2, 3), eps=0.1, elementwise_affine=False), (2, 2, 3)),
    (lambda: nn.BatchNorm1d(3), (4, 3)),
    (lambda: nn.BatchNorm1d(3), (2, 3, 4)),
    (lambda: nn.BatchNorm2d(2, affine=False), (2, 2, 2, 3)),
    (lambda: nn.BatchNorm3d(2), (1, 2, 2, 1, 2)),
]


@pytest.mark.parametrize(("build", "shape"), LAYERS)
def test_variance_is_that_of_the_linearised_layer(build, shape):
    layer = randomised(build())
    x = Moments(torch.randn(shape, dtype=DOUBLE), torch.rand(shape, dtype=DOUBLE))
    result = layer(x)
    assert torch.equal(result.expectation, layer(x.expectation))
    full = jacobian(lambda m: layer(m).flatten(), x.expectation).flatten(1)
    assert torch.allclose(result.variance.flatten(), full.square() @ x.variance.flatten(), rtol=1e-9)


@pytest.mark.parametrize("build", [lambda: nn.LayerNorm(8), lambda: nn.GroupNorm(2, 8), lambda: nn.RMSNorm(8)])
def test_small_variances_agree_with_samples(build, draw):
    layer = randomised(build())
    x = Moments(torch.randn(3, 8, dtype=DOUBLE), 1e-3 * torch.rand(3, 8, dtype=DOUBLE))
    samples = layer(draw(x, 40_000).flatten(0, 1)).reshape(-1, 3, 8).detach()
    assert torch.allclose(layer(x).variance, samples.var(0), rtol=0.05)


def test_batch_norm_is_exact(draw, assert_match):
    layer = randomised(nn.BatchNorm1d(3))
    x = Moments(torch.randn(4, 3, dtype=DOUBLE), torch.rand(4, 3, dtype=DOUBLE))
    assert_match(layer(x), layer(draw(x, 40_000).flatten(0, 1)).reshape(-1, 4, 3).detach())


def test_variance_is_not_negative_where_one_entry_carries_the_norm():
    x = Moments(torch.tensor([[1e4, 0.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
    for function in (functional.layer_norm, functional.rms_norm):
        assert (function(x, (4,)).variance >= 0).all()


def test_statistics_of_the_batch_are_refused():
    x = Moments(torch.randn(4, 3), torch.rand(4, 3))
    with pytest.raises(UnsupportedOperationError, match=r"takes running statistics; call \.eval\(\)"):
        nn.BatchNorm1d(3).train()(x)
    with pytest.raises(UnsupportedOperationError, match="takes running statistics"):
        nn.BatchNorm1d(3, track_running_stats=False).eval()(x)


def test_what_is_not_said_is_as_torch_has_it():
    """Its floor of variances, 1e-5, counts where an input varies by less."""
    x = 1e-3 * torch.randn(2, 4, 3, dtype=torch.float64)
    moments = Moments(x, torch.full_like(x, 1e-8))
    mean, scale = torch.zeros(4, dtype=torch.float64), torch.full((4,), 1e-6, dtype=torch.float64)
    for call in (
        lambda x: functional.layer_norm(x, (3,)),
        lambda x: functional.group_norm(x, 2),
        lambda x: functional.instance_norm(x),
        lambda x: functional.batch_norm(x, mean, scale),
    ):
        torch.testing.assert_close(call(moments).expectation, call(x))
    variance = functional.batch_norm(moments, mean, scale).variance
    torch.testing.assert_close(variance, torch.full_like(x, 1e-8 / 1.1e-5))


WIDE = [
    (lambda: nn.LayerNorm(32), (4, 32)),
    (lambda: nn.LayerNorm((4, 8), elementwise_affine=False), (4, 4, 8)),
    (lambda: nn.GroupNorm(2, 8), (4, 8, 8)),
    (lambda: nn.InstanceNorm1d(4, affine=True), (4, 4, 32)),
    (lambda: nn.RMSNorm(32), (4, 32)),
]


@pytest.mark.parametrize(("build", "shape"), WIDE)
@pytest.mark.parametrize("method", ["exact", "gauss-hermite"])
def test_the_expected_spread_divides_where_variances_are_wide(build, shape, method, draw):
    layer = randomised(build())
    x = Moments(torch.randn(shape, dtype=DOUBLE), 2 * torch.rand(shape, dtype=DOUBLE), Approximation(method))
    samples = layer(draw(x, 4_000).flatten(0, 1)).reshape(-1, *shape).detach()
    result, linearised = layer(x), layer(Moments(x.expectation, x.variance))

    def error(moments):
        return float(((moments.expectation - samples.mean(0)) / samples.std(0)).square().mean().sqrt().detach())

    assert error(result) < 0.04 < 0.2 < error(linearised)
    ratio, off = (float((each.variance / samples.var(0)).detach().mean()) for each in (result, linearised))
    assert ratio == pytest.approx(1, abs=0.05)
    assert off > 1.4


def test_of_a_constant_with_variance_the_expected_spread_is_the_variances():
    """All that varies is left: h = 0, and the variance v (1 - 1/D) / (v (1 - 1/D) + eps)."""
    x = Moments(torch.full((1, 4), 3.0, dtype=DOUBLE), torch.full((1, 4), 2.0, dtype=DOUBLE), Approximation("exact"))
    result = functional.layer_norm(x, (4,), eps=0.5)
    assert torch.equal(result.expectation, torch.zeros(1, 4, dtype=DOUBLE))
    torch.testing.assert_close(result.variance, torch.full((1, 4), 1.5 / 2, dtype=DOUBLE))
    second = functional.rms_norm(x, (4,), eps=0.5)
    torch.testing.assert_close(second.expectation, torch.full((1, 4), 3 / 11.5**0.5, dtype=DOUBLE))
