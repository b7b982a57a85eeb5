import pytest
import torch
from torch.nn import functional

from bayes_influence.moments import Moments, UnsupportedOperationError

DOUBLE = torch.float64


def entries():
    torch.manual_seed(0)
    return Moments(torch.randn(2, 3, 4, dtype=DOUBLE), torch.rand(2, 3, 4, dtype=DOUBLE))


@pytest.mark.parametrize(
    "options",
    [{"dim": -1}, {"dim": (0, 2), "keepdim": True}, {"dim": 1, "correction": 0}, {}, {"dim": 0, "unbiased": False}],
)
def test_the_variance_of_entries_has_the_moments_of_samples(options, draw, assert_match):
    x = entries()
    samples = torch.stack([torch.var(sample, **options) for sample in draw(x, 20_000)])
    result = x.var(**options)
    assert_match(result, samples)
    assert torch.equal(torch.var(x, **options).variance, result.variance)


@pytest.mark.parametrize("options", [{"dim": (1, 2)}, {"dim": (0, 2), "keepdim": True}, {}, {"correction": 0}])
def test_the_deviation_of_entries_is_close_to_samples_and_keeps_the_second_moment(options, draw):
    x = entries()
    samples = torch.stack([torch.std(sample, **options) for sample in draw(x, 20_000)])
    result = x.std(**options)
    squares = result.expectation.square() + result.variance
    torch.testing.assert_close(squares, x.var(**options).expectation)
    torch.testing.assert_close(result.expectation, samples.mean(0), rtol=0.01, atol=0)
    torch.testing.assert_close(result.variance, samples.var(0), rtol=0.15, atol=0)
    assert torch.equal(torch.std(x, **options).variance, result.variance)


def test_the_deviation_of_equal_entries_is_finite():
    result = Moments(torch.ones(3), torch.zeros(3)).std()
    assert float(result.expectation) == pytest.approx(0, abs=1e-5)
    assert float(result.variance) == 0.0


@pytest.mark.parametrize("dim", [-1, 1, (0, 2)])
def test_normalised_entries_have_the_variance_of_their_jacobian(dim):
    x = entries()
    result = functional.normalize(x, dim=dim)
    torch.testing.assert_close(result.expectation, functional.normalize(x.expectation, dim=dim))
    jacobian = torch.func.jacrev(lambda m: functional.normalize(m, dim=dim))(x.expectation)
    torch.testing.assert_close(result.variance, (jacobian.square() * x.variance).sum((-3, -2, -1)))
    small = Moments(x.expectation, 1e-4 * x.variance)
    noise = torch.randn(20_000, *x.shape, dtype=DOUBLE)
    samples = functional.normalize(small.expectation + small.standard_deviation * noise, dim=_later(dim))
    torch.testing.assert_close(functional.normalize(small, dim=dim).variance, samples.var(0), rtol=0.1, atol=1e-9)


def _later(dim):
    """The same axes behind one of samples."""
    return tuple(axis + 1 for axis in dim) if isinstance(dim, tuple) else dim if dim < 0 else dim + 1


@pytest.mark.parametrize("options", [{"dim": -1}, {"dim": (0, 2), "keepdim": True}, {}])
def test_the_length_is_that_of_the_mean_with_the_variance_of_its_gradient(options):
    x = entries()
    result = x.norm(**options)
    torch.testing.assert_close(result.expectation, x.expectation.norm(**options))
    jacobian = torch.func.jacrev(lambda m: m.norm(**options))(x.expectation)
    expected = (jacobian.square() * x.variance).sum((-3, -2, -1))
    torch.testing.assert_close(result.variance, expected.reshape(result.shape))
    zero = Moments(torch.zeros(3), torch.ones(3)).norm()
    assert float(zero.variance) == 0.0


def test_other_norms_are_refused():
    with pytest.raises(UnsupportedOperationError, match="norms of Moments have a rule for p=2, got p=1"):
        entries().norm(1)
    with pytest.raises(UnsupportedOperationError, match=r"normalize of Moments has a rule for p=2, got p=1\.0"):
        functional.normalize(entries(), p=1.0)


def test_the_norm_of_torch_is_that_of_the_method():
    x = Moments(torch.randn(4, 3), torch.rand(4, 3))
    assert torch.equal(torch.norm(x, dim=1).variance, x.norm(dim=1).variance)
    with pytest.raises(UnsupportedOperationError, match=r"keep their dtype, got dtype=torch\.float64"):
        torch.norm(x, dtype=torch.float64)
