import pytest
import torch
from torch.func import grad, jvp, vjp, vmap
from torch.nn import functional

from bayes_influence.moments import Approximation, Moments
from bayes_influence.moments.linear import gaussian_weights
from bayes_influence.moments.linear_maps import Affine, Convolution
from bayes_influence.torch_internals import tree_leaves

DOUBLE = torch.float64
N = 100_000


@pytest.fixture
def weights():
    return Moments(torch.randn(3, 4, dtype=DOUBLE), torch.rand(3, 4, dtype=DOUBLE)), Moments(
        torch.randn(3, dtype=DOUBLE), torch.rand(3, dtype=DOUBLE)
    )


@pytest.mark.parametrize("random_input", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_gaussian_weights_against_samples(weights, random_input, with_bias, draw, assert_match):
    weight, bias = weights
    x = Moments(torch.randn(2, 4, dtype=DOUBLE), torch.rand(2, 4, dtype=DOUBLE))
    result = gaussian_weights(
        Affine(),
        x if random_input else x.expectation,
        weight.expectation,
        bias.expectation if with_bias else None,
        weight.variance.log() / 2,
        bias.variance.log() / 2 if with_bias else None,
        Approximation("exact"),
    )
    inputs = draw(x, N) if random_input else x.expectation.expand(N, 2, 4)
    samples = inputs @ draw(weight, N).mT
    assert_match(result, samples + draw(bias, N)[:, None] if with_bias else samples)
    assert result.approximation == Approximation("exact")


def test_fixed_weights_against_samples(weights, draw, assert_match):
    weight, bias = (part.expectation for part in weights)
    x = Moments(torch.randn(2, 4, dtype=DOUBLE), torch.rand(2, 4, dtype=DOUBLE))
    assert_match(functional.linear(x, weight, bias), functional.linear(draw(x, N), weight, bias))


def test_products_of_matrices_against_samples(draw, assert_match):
    left = Moments(torch.randn(2, 3, dtype=DOUBLE), torch.rand(2, 3, dtype=DOUBLE))
    right = Moments(torch.randn(3, 2, dtype=DOUBLE), torch.rand(3, 2, dtype=DOUBLE))
    assert_match(left @ right, draw(left, N) @ draw(right, N))
    assert_match(left.expectation @ right, left.expectation @ draw(right, N))
    assert_match(torch.matmul(left, right.expectation), draw(left, N) @ right.expectation)


def plain_moments(operation, mean, variance, weight, bias, rho, bias_rho):
    spread = operation(mean.square(), torch.exp(2 * rho), None if bias_rho is None else torch.exp(2 * bias_rho))
    if variance is not None:
        spread = spread + operation(variance, weight.square() + torch.exp(2 * rho), None)
    return operation(mean, weight, bias), spread


def recomputed_moments(operation, mean, variance, weight, bias, rho, bias_rho):
    x = mean if variance is None else Moments(mean, variance)
    result = gaussian_weights(operation, x, weight, bias, rho, bias_rho, Approximation())
    return result.expectation, result.variance


@pytest.mark.parametrize("random_input", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(
    ("operation", "shape", "weight_shape"),
    [(Affine(), (3, 4), (2, 4)), (Convolution((1, 1), (1, 1), (1, 1), 1), (2, 2, 3, 3), (2, 2, 2, 2))],
    ids=["linear", "convolution"],
)
def test_every_derivative_is_that_of_the_plain_formula(operation, shape, weight_shape, random_input, with_bias):
    mean, weight, rho = (torch.randn(size, dtype=DOUBLE) for size in (shape, weight_shape, weight_shape))
    bias, bias_rho = torch.randn(2, weight_shape[0], dtype=DOUBLE) if with_bias else (None, None)
    arguments = (mean, torch.rand_like(mean) if random_input else None, weight, bias, rho, bias_rho)
    places = [index for index, value in enumerate(arguments) if value is not None]

    def objective(moments):
        def value(*given):
            full = [None] * len(arguments)
            for index, argument in zip(places, given, strict=True):
                full[index] = argument
            expectation, spread = moments(operation, *full)
            return (expectation.sin() * spread.cos()).sum()

        return value

    given = tuple(arguments[index] for index in places)
    every, directions = tuple(range(len(given))), tuple(torch.randn_like(value) for value in given)
    for transform in (
        lambda f: grad(f, every)(*given),
        lambda f: jvp(f, given, directions)[1],
        lambda f: jvp(grad(f, every), given, directions)[1],
        lambda f: vjp(grad(f, every), *given)[1](directions),
        lambda f: jvp(lambda *x: jvp(f, x, directions)[1], given, directions)[1],
        lambda f: (
            vmap(grad(f, every), in_dims=(0, *[None] * (len(given) - 1)))(given[0].unsqueeze(1), *given[1:])
            if not random_input
            else f(*given)
        ),
    ):
        expected, got = (tree_leaves(transform(objective(moments))) for moments in (plain_moments, recomputed_moments))
        assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-10) for a, b in zip(expected, got, strict=True))
