import pytest
import torch
from torch.autograd.functional import jacobian
from torch.nn import functional

from bayes_influence.moments import Moments

DOUBLE = torch.float64


@pytest.mark.parametrize(
    "function", [functional.softmax, functional.log_softmax, functional.softmin, torch.softmax, torch.log_softmax]
)
def test_variance_is_that_of_the_linearised_function(function):
    x = Moments(torch.randn(5, dtype=DOUBLE), 2 * torch.rand(5, dtype=DOUBLE))
    result = function(x, dim=0)
    full = jacobian(lambda m: function(m, dim=0), x.expectation)
    assert torch.allclose(result.expectation, function(x.expectation, dim=0))
    assert torch.allclose(result.variance, full.square() @ x.variance)


@pytest.mark.parametrize("function", [torch.softmax, torch.log_softmax])
def test_small_variances_agree_with_samples(function, draw):
    x = Moments(torch.randn(2, 4, dtype=DOUBLE), torch.full((2, 4), 1e-4, dtype=DOUBLE))
    result, samples = function(x, -1), function(draw(x, 100_000), -1)
    assert torch.allclose(result.variance, samples.var(0), rtol=0.03)


def test_variance_is_not_negative_for_a_certain_class():
    x = Moments(torch.tensor([60.0, 0.0, -60.0]), torch.tensor([5.0, 1.0, 1e-6]))
    assert (torch.softmax(x, 0).variance >= 0).all()
    assert (torch.log_softmax(x, 0).variance >= 0).all()


def test_dtype_is_taken_over():
    result = functional.softmax(Moments(torch.randn(3), torch.rand(3)), dim=0, dtype=DOUBLE)
    assert result.dtype == result.variance.dtype == DOUBLE


def test_glu_gates_one_half_by_the_other():
    x = Moments(torch.randn(2, 6, dtype=DOUBLE), torch.rand(2, 6, dtype=DOUBLE))
    expected = x[:, :3] * torch.sigmoid(x[:, 3:])
    result = functional.glu(x, 1)
    assert torch.equal(result.expectation, functional.glu(x.expectation, 1))
    assert torch.equal(result.variance, expected.variance)


def test_an_implicit_dim_is_refused():
    with pytest.raises(ValueError, match="needs an explicit dim"):
        torch.nn.Softmax()(Moments(torch.zeros(2, 3), torch.ones(2, 3)))


def test_the_halves_of_a_gated_unit_are_those_of_the_last_axis():
    x = torch.randn(4, 6, dtype=torch.float64)
    torch.testing.assert_close(functional.glu(Moments(x, torch.zeros_like(x))).expectation, functional.glu(x))
