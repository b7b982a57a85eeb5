from functools import partial

import pytest
import torch
from torch.func import grad, hessian, jacrev, jvp, vmap

from bayes_influence.moments import Approximation, Moments
from bayes_influence.moments.activations import relu
from bayes_influence.moments.elementwise_functions import _EXACT_DERIVATIVES, _SECOND_DERIVATIVES
from bayes_influence.moments.exact import tanh_moments
from bayes_influence.moments.recomputed import BLOCK, ElementwiseMap, recomputed
from bayes_influence.torch_internals import tree_leaves

DOUBLE = torch.float64


@pytest.fixture
def moments():
    return 2 * torch.randn(60, dtype=DOUBLE), torch.exp(2 * torch.randn(60, dtype=DOUBLE))


def objective(apply):
    """A scalar of both output moments."""

    def value(mean, variance):
        expectation, spread = apply(mean, variance)
        return (expectation.sin() * (1 + spread)).sum()

    return value


def kept_bytes(function, *leaves):
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda value: kept.setdefault(value.untyped_storage().data_ptr(), value), lambda value: value
    ):
        function(*(leaf.requires_grad_() for leaf in leaves))
    return sum(value.untyped_storage().nbytes() for value in kept.values())


@pytest.mark.parametrize("form", _EXACT_DERIVATIVES, ids=lambda form: form.__name__)
@pytest.mark.parametrize("variance", [1e-6, 1e-3, 0.5, 9.0])
def test_closed_form_derivatives_are_those_of_the_closed_form(form, variance):
    m = torch.linspace(-4, 4, 33, dtype=DOUBLE)
    v = torch.full_like(m, variance)
    (mean_by_mean, mean_by_variance), (by_mean, by_variance) = vmap(jacrev(form, (0, 1)))(m, v)
    expected = (mean_by_mean, mean_by_variance, by_mean, by_variance)
    for mine, autograds in zip(_EXACT_DERIVATIVES[form](m, v), expected, strict=True):
        assert torch.allclose(mine, autograds, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("first", _SECOND_DERIVATIVES, ids=lambda first: first.__name__)
def test_second_derivatives_are_the_slopes_of_the_derivatives(first):
    m = torch.linspace(-3, 3, 26, dtype=DOUBLE)
    slopes = vmap(grad(lambda x: first(x)[1]))(m)
    mine = _SECOND_DERIVATIVES[first](m, *first(m))
    assert torch.allclose(torch.zeros_like(m) if mine is None else mine, slopes, rtol=1e-10, atol=1e-12)
    assert (mine is None) == (first.__name__ in ("relu", "leaky_relu"))


@pytest.mark.parametrize("derivatives", [None, _EXACT_DERIVATIVES[tanh_moments]], ids=["differentiated", "closed"])
def test_every_derivative_is_that_of_the_plain_map(moments, derivatives):
    function = ElementwiseMap(tanh_moments, derivatives)
    plain, mine = objective(tanh_moments), objective(lambda m, v: recomputed(function, m, v))
    directions = tuple(torch.randn_like(x) for x in moments)
    assert torch.equal(mine(*moments), plain(*moments))
    for transform in (
        lambda f: grad(f, (0, 1))(*moments),
        lambda f: jvp(f, moments, directions)[1],
        lambda f: hessian(f, (0, 1))(*moments),
        lambda f: jvp(grad(f, (0, 1)), moments, directions)[1],
        lambda f: vmap(grad(f, (0, 1)))(*(x.reshape(6, 10) for x in moments)),
        lambda f: jvp(jvp_along(f, directions), moments, directions)[1],
    ):
        expected, got = (tree_leaves(transform(f)) for f in (plain, mine))
        assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-10) for a, b in zip(expected, got, strict=True))


def jvp_along(function, directions):
    return lambda *x: jvp(function, x, directions)[1]


def test_differentiating_twice_without_functional_transforms(moments):
    m, v = (x.clone().requires_grad_() for x in moments)
    function = ElementwiseMap(tanh_moments, _EXACT_DERIVATIVES[tanh_moments])
    assert torch.autograd.gradcheck(lambda *x: recomputed(function, *x), (m, v))
    assert torch.autograd.gradgradcheck(lambda *x: recomputed(function, *x), (m, v))


def test_blocks_change_nothing():
    m = torch.randn(3, BLOCK // 2, dtype=DOUBLE)
    v = torch.rand_like(m)
    maps = [ElementwiseMap(tanh_moments, in_blocks=in_blocks) for in_blocks in (False, True)]
    whole, blocked = (grad(objective(partial(recomputed, function)), (0, 1))(m, v) for function in maps)
    assert all(torch.equal(a, b) for a, b in zip(whole, blocked, strict=True))


def test_only_the_input_is_kept():
    x = Moments(torch.randn(40, 50), torch.rand(40, 50), Approximation("exact"))

    def step(mean, variance):
        return torch.tanh(Moments(mean, variance, x.approximation))

    assert kept_bytes(step, x.expectation, x.variance) == 2 * x.expectation.untyped_storage().nbytes()


def test_a_kink_has_no_curvature():
    assert _SECOND_DERIVATIVES[relu](torch.zeros(1), *relu(torch.zeros(1))) is None
