import pytest
import torch
from torch.autograd.functional import jacobian
from torch.nn import functional

from bayes_influence.moments import Approximation, Moments

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


@pytest.mark.parametrize("spread", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("function", [torch.softmax, torch.log_softmax, functional.softmin])
def test_but_to_first_order_the_mean_is_that_of_the_function(spread, function, draw):
    torch.manual_seed(0)
    x = Moments(2 * torch.randn(10, 16, dtype=DOUBLE), spread**2 * (0.5 + torch.rand(10, 16, dtype=DOUBLE)))
    samples = function(draw(x, 4_000), -1)
    found = function(Moments(x.expectation, x.variance, Approximation("exact")), -1)

    def error(result):
        return float((result.expectation - samples.mean(0)).square().sum().div(samples.var(0).sum()).sqrt())

    linear = error(function(x, -1))
    of_a_bound = 0.2 if function is torch.log_softmax else 0.12
    assert error(found) < {0.3: 0.03, 1.0: 0.05, 2.0: of_a_bound}[spread]
    assert error(found) < 0.5 * linear
    if function is torch.softmax:
        torch.testing.assert_close(found.expectation.sum(-1), torch.ones(10, dtype=DOUBLE))


def test_its_mean_leaves_out_what_is_masked_and_is_the_softmax_without_variance():
    m = torch.tensor([[0.5, -1.0, -torch.inf]], dtype=DOUBLE)
    exact = Approximation("exact")
    found = torch.softmax(Moments(m, torch.ones_like(m), exact), -1)
    alone = torch.softmax(Moments(m[:, :2], torch.ones(1, 2, dtype=DOUBLE), exact), -1)
    torch.testing.assert_close(found.expectation[:, :2], alone.expectation)
    torch.testing.assert_close(found.variance[:, :2], alone.variance)
    assert float(found.expectation[0, 2]) == float(found.variance[0, 2]) == 0
    assert float(torch.log_softmax(Moments(m, torch.ones_like(m), exact), -1).expectation[0, 2]) == -torch.inf
    certain = Moments(m, torch.zeros_like(m), exact)
    torch.testing.assert_close(torch.softmax(certain, -1).expectation, torch.softmax(m, -1))
    torch.testing.assert_close(torch.log_softmax(certain, -1).expectation, torch.log_softmax(m, -1))
