import pytest
import torch
from torch.func import grad
from torch.nn import functional

from bayes_influence.moments import Approximation, Moments
from bayes_influence.moments.elementwise_functions import _EXACT
from bayes_influence.moments.gaussian import normal_density

DOUBLE = torch.float64
OPTIONS = {
    "leaky_relu": [{}, {"negative_slope": 0.3}],
    "elu": [{}, {"alpha": 0.5}],
    "celu": [{}, {"alpha": 2.0}],
    "gelu": [{}, {"approximate": "tanh"}],
}
FITTED = {"tanh", "sigmoid"}
"""Closed forms of a function that is within 3e-4 of the activation."""


def cases(excluded=frozenset()):
    """One spelling of every function with closed-form moments, with each of its options."""
    methods = set(vars(torch.Tensor.__base__).values())
    functions = {function.__name__: function for function in _EXACT if function not in methods}
    return [
        pytest.param(function, options, id=f"{name}-{options}")
        for name, function in sorted(functions.items())
        if name not in excluded
        for options in OPTIONS.get(name, [{}])
    ]


def on_a_fine_grid(function, mean, variance):
    z = torch.linspace(-10, 10, 20_001, dtype=DOUBLE)
    weights = normal_density(z) * (z[1] - z[0])
    values = function(mean[..., None] + variance.sqrt()[..., None] * z)
    expectation = (weights * values).sum(-1)
    return expectation, (weights * (values - expectation[..., None]).square()).sum(-1)


@pytest.mark.parametrize(("function", "options"), cases())
def test_closed_forms_are_the_moments_of_samples(function, options, draw, assert_match):
    m = torch.tensor([-1.7, -0.4, 0.0, 0.3, 1.2], dtype=DOUBLE)
    x = Moments(m, torch.full_like(m, 0.35), Approximation("exact"))
    assert_match(function(x, **options), function(draw(x, 200_000), **options))


@pytest.mark.parametrize("variance", [1e-3, 0.01, 1.0, 9.0])
@pytest.mark.parametrize(("function", "options"), cases(FITTED | {"exp", "square", "gelu"}))
def test_closed_forms_agree_with_a_fine_grid(function, options, variance):
    m = torch.linspace(-6, 6, 25, dtype=DOUBLE)
    v = torch.full_like(m, variance)
    result = function(Moments(m, v, Approximation("exact")), **options)
    expectation, spread = on_a_fine_grid(lambda x: function(x, **options), m, v)
    assert torch.allclose(result.expectation, expectation, rtol=1e-5, atol=1e-6)
    assert torch.allclose(result.variance, spread, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("variance", [3e-10, 1e-8, 1e-4, 2.3e-4, 2.5e-4, 1e-3, 0.1, 1.0, 9.0, 100.0, 1000.0])
@pytest.mark.parametrize("function", [functional.elu, functional.selu, lambda x: functional.celu(x, 2.0)])
def test_small_variances_of_exponential_units_are_right_in_proportion(function, variance, dtype):
    m = torch.tensor([-8, -5, -3, -1, -0.3, -0.05, -0.01, 0, 0.01, 0.05, 0.3, 3], dtype=DOUBLE)
    v = torch.full_like(m, variance)
    result = function(Moments(m.to(dtype), v.to(dtype), Approximation("exact")))
    centre = function(m)
    shift, spread = on_a_fine_grid(lambda x: function(x) - centre.unsqueeze(1), m, v)
    tolerance = 2e-6 if dtype == DOUBLE else 2e-3
    assert torch.allclose(result.variance.double(), spread, rtol=tolerance, atol=0)
    rounding = 1e-7 if dtype == DOUBLE else 2e-6  # torch has the constants of SELU in single precision
    assert torch.allclose(result.expectation.double() - centre, shift, atol=rounding, rtol=rounding)


@pytest.mark.parametrize("variance", [1e-6, 1e-4, 1e-3, 0.03, 0.3, 0.99, 1.01, 1.49, 1.9, 2.6, 4.0, 9.0, 30.0, 100.0])
@pytest.mark.parametrize(("function", "scale"), [(torch.tanh, 1.0), (torch.sigmoid, 2.0)])
@pytest.mark.parametrize(("largest", "bound"), [(4, 0.014), (6, 0.055), (8, 0.12)])
def test_variances_of_saturating_units_are_right_in_proportion(function, scale, variance, largest, bound):
    m = scale * torch.linspace(-largest, largest, 33, dtype=DOUBLE)
    v = torch.full_like(m, scale**2 * variance)
    result = function(Moments(m, v, Approximation("exact")))
    expectation, spread = on_a_fine_grid(function, m, v)
    stated = 0.002 if variance <= 1 else 0.001 if variance > 30 else bound
    assert torch.allclose(result.variance, spread, rtol=stated, atol=0)
    grid = 1e-12  # by which the grid's weights miss a sum of one
    assert ((result.expectation - expectation).abs() < 0.002 * spread.sqrt() + grid).all()


@pytest.mark.parametrize("variance", [1e-3, 0.1, 1.0, 9.0])
def test_gelu_has_an_exact_mean_and_a_variance_about_it(variance):
    m = torch.linspace(-4, 4, 17, dtype=DOUBLE)
    v = torch.full_like(m, variance)
    result = functional.gelu(Moments(m, v, Approximation("exact")))
    expectation, spread = on_a_fine_grid(functional.gelu, m, v)
    assert torch.allclose(result.expectation, expectation, rtol=1e-9, atol=1e-9)
    assert torch.allclose(result.variance, spread, rtol=1e-3 if variance <= 1 else 0.1)


@pytest.mark.parametrize("variance", [1e-6, 1e-3, 0.1, 1.0, 4.0, 25.0])
def test_tanh_and_sigmoid_are_within_the_stated_errors(variance):
    m = torch.linspace(-8, 8, 65, dtype=DOUBLE)
    v = torch.full_like(m, variance)
    for function, scale in ((torch.tanh, 1.0), (torch.sigmoid, 0.5)):
        result = function(Moments(m, v, Approximation("exact")))
        expectation, spread = on_a_fine_grid(function, m, v)
        assert (result.expectation - expectation).abs().max() < 4e-4 * scale
        assert (result.variance - spread).abs().max() < 6e-4 * scale**2


@pytest.mark.parametrize(
    "function", [functional.elu, functional.selu, torch.tanh, functional.relu], ids=lambda f: f.__name__
)
def test_single_precision_loses_little(function):
    m = torch.linspace(-4, 4, 17).repeat(5, 1)
    v = torch.tensor([1e-6, 2.4e-4, 1e-2, 1.0, 30.0])[:, None].expand_as(m)
    single = function(Moments(m, v, Approximation("exact")))
    double = function(Moments(m.double(), v.double(), Approximation("exact")))
    assert torch.allclose(single.expectation.double(), double.expectation, rtol=1e-5, atol=1e-5)
    assert torch.allclose(single.variance.double(), double.variance, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("function", [functional.selu, functional.celu], ids=lambda f: f.__name__)
def test_the_two_formulas_for_small_variances_meet(function):
    m = torch.tensor([-2.0, -0.02, 0.0, 0.01, 1.0], dtype=DOUBLE)
    threshold = (30 * torch.finfo(DOUBLE).eps) ** (2 / 3)
    below, above = (
        function(Moments(m, torch.full_like(m, v), Approximation("exact"))).variance / v
        for v in (0.9999 * threshold, 1.0001 * threshold)
    )
    assert torch.allclose(below, above, rtol=2e-6)


@pytest.mark.parametrize(("function", "options"), cases({"exp"}))  # whose moments overflow
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_gradients_are_finite_also_far_out_and_without_variance(function, options, dtype):
    def total(parts):
        result = function(Moments(parts[0], parts[1], Approximation("exact")), **options)
        return (result.expectation + result.variance).sum()

    for variance in (0.0, 1e-8, 1.0, 50.0):
        parts = torch.tensor([[-300.0, -1.0, 0.0, 1.0, 300.0], 5 * [variance]], dtype=dtype)
        assert torch.isfinite(grad(total)(parts)).all()


def test_exact_relu_of_a_centred_gaussian_is_the_half_normal():
    x = Moments(torch.zeros(1, dtype=DOUBLE), torch.full((1,), 2.0, dtype=DOUBLE), Approximation("exact"))
    result = functional.relu(x)
    assert result.expectation.item() == pytest.approx((2.0 / (2 * torch.pi)) ** 0.5)
    assert result.variance.item() == pytest.approx(2.0 * (0.5 - 1 / (2 * torch.pi)))
