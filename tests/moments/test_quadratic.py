import pytest
import torch

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
