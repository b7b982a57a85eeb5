import pytest
import torch
from torch.autograd.functional import jacobian
from torch.nn import functional

from bayes_influence.moments import Approximation, Moments
from bayes_influence.moments.elementwise import _DERIVATIVES, _EXACT

DOUBLE = torch.float64
OPTIONS = {
    "leaky_relu": [{}, {"negative_slope": 0.3}],
    "softplus": [{}, {"beta": 2.0, "threshold": 10.0}],
    "elu": [{}, {"alpha": 0.5}],
    "gelu": [{}, {"approximate": "tanh"}],
}


def cases(registry):
    """One spelling of every registered function, with each of its options."""
    methods = set(vars(torch._C.TensorBase).values())
    functions = {function.__name__: function for function in registry if function not in methods}
    return [
        pytest.param(function, options, id=f"{name}-{options}")
        for name, function in sorted(functions.items())
        for options in OPTIONS.get(name, [{}])
    ]


@pytest.mark.parametrize(("function", "options"), cases(_DERIVATIVES))
def test_hand_written_derivatives_are_autograds(function, options):
    m = torch.tensor([-25.0, -6.0, -1.3, -0.2, 0.1, 0.9, 4.0, 12.0, 30.0], dtype=DOUBLE)
    value, derivative = _DERIVATIVES[function](m, **options)
    assert torch.equal(value, function(m, **options))
    expected = jacobian(lambda x: function(x, **options), m).diagonal()
    assert torch.allclose(derivative, expected, rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize(("function", "options"), cases(_EXACT))
def test_closed_forms_are_the_moments_of_samples(function, options, draw, assert_match):
    m = torch.tensor([-1.7, -0.4, 0.0, 0.3, 1.2], dtype=DOUBLE)
    x = Moments(m, torch.full_like(m, 0.35), Approximation("exact"))
    assert_match(function(x, **options), function(draw(x, 200_000), **options))


@pytest.mark.parametrize(("function", "options"), cases(_EXACT))
def test_closed_forms_agree_with_quadrature_where_it_is_accurate(function, options):
    m = torch.tensor([-3.0, -2.5, 2.0, 3.5], dtype=DOUBLE)
    v = torch.full_like(m, 0.01)
    exact = function(Moments(m, v, Approximation("exact")), **options)
    quadrature = function(Moments(m, v, Approximation("gauss-hermite")), **options)
    assert torch.allclose(exact.mean, quadrature.mean, rtol=1e-9)
    assert torch.allclose(exact.variance, quadrature.variance, rtol=1e-7)


def test_exact_relu_of_a_centred_gaussian_is_the_half_normal():
    x = Moments(torch.zeros(1, dtype=DOUBLE), torch.full((1,), 2.0, dtype=DOUBLE), Approximation("exact"))
    result = functional.relu(x)
    assert result.mean.item() == pytest.approx((2.0 / (2 * torch.pi)) ** 0.5)
    assert result.variance.item() == pytest.approx(2.0 * (0.5 - 1 / (2 * torch.pi)))
