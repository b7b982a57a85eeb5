import pytest
import torch
from torch.autograd.functional import jacobian

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
