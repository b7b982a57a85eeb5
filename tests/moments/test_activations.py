import pytest
import torch
from torch.autograd.functional import jacobian
from torch.nn import functional

from bayes_influence.moments import Approximation, Moments
from bayes_influence.moments.elementwise_functions import _DERIVATIVES

DOUBLE = torch.float64
OPTIONS = {
    "leaky_relu": [{}, {"negative_slope": 0.3}],
    "softplus": [{}, {"beta": 2.0, "threshold": 10.0}],
    "elu": [{}, {"alpha": 0.5}],
    "gelu": [{}, {"approximate": "tanh"}],
}


def cases(registry):
    """One spelling of every registered function, with each of its options."""
    methods = set(vars(torch.Tensor.__base__).values())
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


@pytest.mark.parametrize("method", ["first-order", "exact"])
@pytest.mark.parametrize("shape", [(), (4,), (4, 3), (2, 3, 2, 2)])
def test_a_prelu_of_one_slope_for_all_channels_is_the_leaky_relu(method, shape):
    x = Moments(torch.randn(shape, dtype=DOUBLE), 1e-4 * torch.rand(shape, dtype=DOUBLE), Approximation(method))
    slopes = torch.full((3 if len(shape) > 1 else 1,), 0.3, dtype=DOUBLE)
    expected = functional.leaky_relu(x, 0.3)
    for found in (functional.prelu(x, slopes), functional.prelu(x, slopes[:1])):
        torch.testing.assert_close(found.expectation, expected.expectation, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(found.variance, expected.variance, rtol=0.1, atol=0)


def test_a_prelu_with_another_number_of_channels_is_refused():
    x = Moments(torch.zeros(2, 1, 3), torch.ones(2, 1, 3))
    with pytest.raises(RuntimeError, match=r"expanded size of the tensor \(1\) must match the existing size \(3\)"):
        functional.prelu(x, torch.ones(3))
