import pytest
import torch
from torch.func import grad, hessian, jvp, vmap
from torch.nn import functional

from bayes_influence.moments import Approximation, Moments, UnsupportedOperationError, elementwise
from bayes_influence.moments.elementwise_functions import propagate, value_and_derivative
from bayes_influence.torch_internals import make_fx

DOUBLE = torch.float64


def test_first_order_is_the_linearisation():
    x = Moments(torch.randn(4, dtype=DOUBLE), torch.rand(4, dtype=DOUBLE))
    result = torch.sin(x)
    assert torch.equal(result.expectation, x.expectation.sin())
    assert torch.allclose(result.variance, x.expectation.cos().square() * x.variance)


def test_exact_takes_quadrature_where_there_is_no_closed_form():
    x = Moments(torch.randn(4, dtype=DOUBLE), torch.rand(4, dtype=DOUBLE), Approximation("exact"))
    quadrature = Moments(x.expectation, x.variance, Approximation("gauss-hermite"))
    for function in (torch.sin, functional.mish, functional.softplus):
        assert torch.equal(function(x).expectation, function(quadrature).expectation)
        assert torch.equal(function(x).variance, function(quadrature).variance)
    expected = torch.sin(x.expectation) * torch.exp(-x.variance / 2)
    assert torch.allclose(torch.sin(x).expectation, expected, rtol=1e-10)


def test_registered_and_forward_mode_derivatives_agree():
    m = torch.randn(5, dtype=DOUBLE)
    value, derivative = value_and_derivative(torch.tanh, m)
    forward = jvp(torch.tanh, (m,), (torch.ones_like(m),))
    assert torch.allclose(value, forward[0])
    assert torch.allclose(derivative, forward[1])


def test_a_function_of_ones_own_is_linearised_as_a_whole():
    @elementwise
    def gated(x):
        return x * torch.sigmoid(x)

    x = Moments(torch.randn(6, dtype=DOUBLE), torch.rand(6, dtype=DOUBLE))
    assert gated.__name__ == "gated"
    assert torch.equal(gated(x.expectation), x.expectation * torch.sigmoid(x.expectation))
    assert torch.allclose(gated(x).variance, functional.silu(x).variance)
    assert not torch.allclose((x * torch.sigmoid(x)).variance, gated(x).variance, rtol=0.05)


@pytest.mark.parametrize("method", ["first-order", "exact", "gauss-hermite"])
@pytest.mark.parametrize("function", [functional.selu, functional.mish, functional.relu], ids=lambda f: f.__name__)
def test_rules_are_safe_under_transforms(method, function):
    approximation = Approximation(method)

    def total(parts):
        result = function(Moments(parts[0], parts[1], approximation))
        return (result.expectation.square() + (result.variance + 0.1).sqrt()).sum()

    parts = torch.stack([torch.tensor([-0.9, 0.4]), torch.tensor([0.5, 0.8])]).double()
    members = torch.stack([parts, 1.3 * parts])
    step = 1e-6
    gradient = grad(total)(parts)
    for index in ((0, 0), (0, 1), (1, 0), (1, 1)):
        shift = torch.zeros_like(parts)
        shift[index] = step
        difference = (total(parts + shift) - total(parts - shift)) / (2 * step)
        assert gradient[index].item() == pytest.approx(difference.item(), rel=1e-6, abs=1e-8)
    direction = torch.ones_like(parts)
    product = jvp(grad(total), (parts,), (direction,))[1]
    assert torch.allclose(hessian(total)(parts).sum((2, 3)), product)
    traced = make_fx(vmap(grad(total)))(members)
    assert torch.allclose(traced(members)[1], grad(total)(1.3 * parts))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "function", [functional.elu, functional.relu, functional.tanh, functional.softplus], ids=lambda f: f.__name__
)
def test_exact_moments_of_half_precision_are_those_of_single_rounded(function, dtype):
    x = Moments(torch.linspace(-2, 2, 7, dtype=dtype), torch.rand(7).to(dtype), Approximation("exact"))
    result = function(x)
    single = function(Moments(x.expectation.float(), x.variance.float(), x.approximation))
    assert torch.equal(result.expectation, single.expectation.to(dtype))
    assert torch.equal(result.variance, single.variance.to(dtype))


@pytest.mark.parametrize("method", ["first-order", "exact", "gauss-hermite"])
def test_tensors_beside_the_argument_have_derivatives_too(method):
    x = Moments(torch.randn(2, 3, 4, dtype=DOUBLE), torch.rand(2, 3, 4, dtype=DOUBLE), Approximation(method))

    def total(slopes):
        result = functional.prelu(x, slopes)
        return (result.expectation.square() + (result.variance + 0.1).sqrt()).sum()

    slopes = torch.tensor([0.1, 0.3, -0.2], dtype=DOUBLE)
    shifts = 1e-6 * torch.eye(3, dtype=DOUBLE)
    differences = torch.stack([(total(slopes + shift) - total(slopes - shift)) / 2e-6 for shift in shifts])
    torch.testing.assert_close(grad(total)(slopes), differences, rtol=1e-6, atol=1e-8)
    direction = torch.ones_like(slopes)
    torch.testing.assert_close(hessian(total)(slopes) @ direction, jvp(grad(total), (slopes,), (direction,))[1])
    members = torch.stack([slopes, 2 * slopes])
    torch.testing.assert_close(vmap(grad(total))(members)[1], grad(total)(2 * slopes))


@pytest.mark.parametrize(
    "work",
    [
        torch.nn.ReLU(inplace=True),
        torch.nn.RReLU(inplace=True).eval(),
        torch.nn.Dropout(inplace=True),
        torch.nn.Dropout2d(inplace=True),
        lambda x: functional.alpha_dropout(x, 0.5, True, True),
        lambda x: functional.elu(x, 1.0, True),
        functional.relu_,
        lambda x: x.tanh_(),
        lambda x: x.sigmoid_(),
    ],
)
def test_functions_asked_to_work_in_place_change_the_moments_that_they_get(work):
    x = Moments(torch.tensor([[-1.0, 2.0]]), torch.ones(1, 2))
    alias, before = x, x.expectation.clone()
    result = work(x)
    assert result is alias
    assert not torch.equal(torch.stack([x.expectation, x.variance]), torch.stack([before, torch.ones(1, 2)]))


def test_random_exponents_are_refused():
    x = Moments(torch.ones(2), torch.ones(2))
    for operation in (lambda: torch.pow(x, x), lambda: torch.pow(2.0, x)):
        with pytest.raises(UnsupportedOperationError, match="takes Moments as its first argument only"):
            operation()


def test_random_settings_are_refused():
    x, fixed = Moments(torch.ones(2), torch.ones(2)), torch.ones(2)
    for first, second in ((x, x), (fixed, x)):
        with pytest.raises(UnsupportedOperationError, match=r"^hardtanh takes Moments as its first argument only"):
            propagate(functional.hardtanh, first, second)
        with pytest.raises(UnsupportedOperationError, match=r"^hardtanh takes Moments as its first argument only"):
            propagate(functional.hardtanh, first, min_val=second)


PARTLY_DEFINED = [
    torch.log,
    torch.log1p,
    torch.sqrt,
    torch.rsqrt,
    torch.reciprocal,
    torch.tan,
    lambda x: x**0.5,
    lambda x: x**-1,
    lambda x: torch.pow(x, exponent=1.5),
    lambda x: torch.pow(x, torch.tensor(2)),
    lambda x: x**16,
]


@pytest.mark.parametrize("function", PARTLY_DEFINED)
def test_functions_without_moments_are_refused_but_to_first_order(function):
    m, v = torch.tensor([1.2, 0.7], dtype=DOUBLE), torch.tensor([0.1, 0.2], dtype=DOUBLE)
    for method in ("exact", "gauss-hermite"):
        with pytest.raises(UnsupportedOperationError, match=f"has no moments.*so method '{method}' cannot"):
            function(Moments(m, v, Approximation(method)))
    result = function(Moments(m, v))
    assert torch.equal(result.expectation, function(m))
    assert torch.allclose(result.variance, vmap(grad(function))(m).square() * v)


@pytest.mark.parametrize("power", [0, 1, 2, 3.0, 5])
@pytest.mark.parametrize("method", ["exact", "gauss-hermite"])
def test_whole_powers_are_exact(power, method):
    m, v = torch.tensor([-1.2, 0.0, 0.7], dtype=DOUBLE), torch.tensor([0.1, 3.0, 0.2], dtype=DOUBLE)
    result = Moments(m, v, Approximation(method)) ** power
    z = torch.linspace(-12, 12, 40_001, dtype=DOUBLE)
    weights = torch.softmax(-0.5 * z.square(), 0)
    values = (m.unsqueeze(1) + v.sqrt().unsqueeze(1) * z) ** power
    expectation = (weights * values).sum(1)
    assert torch.allclose(result.expectation, expectation, atol=1e-9)
    assert torch.allclose(result.variance, (weights * (values - expectation.unsqueeze(1)).square()).sum(1), atol=1e-9)


@pytest.mark.parametrize("call", [lambda x: functional.leaky_relu(x, 0.1, True), lambda x: functional.relu(x, True)])
def test_in_place_may_be_said_by_position(call):
    mean = torch.tensor([-1.0, 2.0])
    x, again = Moments(mean, torch.ones(2)), Moments(mean, torch.ones(2))
    result = call(x)
    assert result is x
    assert torch.equal(x.expectation, call(mean.clone()))
    assert functional.relu(again, False) is not again
    assert torch.equal(again.expectation, mean)
