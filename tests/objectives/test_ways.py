"""Derivatives of every layer type of torch.nn that has parameters or a formula of its own, and what is refused."""

import logging
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from bayes_influence.curvature.operators.gauss_newton import EmpiricalFisherOperator, GaussNewtonOperator
from bayes_influence.curvature.operators.hessian import HessianOperator
from bayes_influence.data.dataset import Dataset
from bayes_influence.objectives import ways
from bayes_influence.objectives.derivatives import dense_hessian, per_example_gradients, per_example_hessians
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.ways import (
    NoDerivativeError,
    first_way,
    is_quick,
    reverse_along,
    reverse_bend,
    reverse_gradient,
    reverse_jacobian,
    reverse_products,
    reverse_pulled,
    reverse_third,
    small_products,
)
from tests.layer_types import (
    CASES,
    CLASSES,
    LENGTH,
    WIDTH,
    After,
    Custom,
    N,
    OnceOnly,
    Square,
    differences,
    free,
    moved,
    plain_gradients,
    small_problem,
)

LONG = ("TransformerEncoder", "TransformerDecoderLayer", "LSTM of two layers, both ways")
"""What several layers of it take half a minute for; its parts are cases of their own."""


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in CASES])
def case(request):
    return small_problem(request.param)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_gradients_and_curvature_of_every_layer(case):
    objective, data = case
    batch, theta = data.batch(), objective.flat.theta
    gradients = plain_gradients(objective, batch)
    torch.testing.assert_close(per_example_gradients(objective, batch), gradients, rtol=1e-9, atol=1e-10)
    decay = 0.05 * torch.eye(len(theta), dtype=torch.float64)
    hessian = (
        differences(lambda at: plain_gradients(moved(objective, at), batch).mean(0), theta) * free(objective) + decay
    )
    torch.testing.assert_close(HessianOperator(objective, data, 2).dense(), hessian, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(dense_hessian(objective, batch), hessian, rtol=1e-6, atol=1e-7)
    fisher = gradients.T @ gradients / N + decay
    torch.testing.assert_close(EmpiricalFisherOperator(objective, data, 2).dense(), fisher, rtol=1e-8, atol=1e-9)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_gauss_newton_of_every_layer(case):
    objective, data = case
    batch, theta = data.batch(), objective.flat.theta

    def outputs(at):
        with torch.no_grad():
            return objective.flat.outputs(at, batch.inputs)

    def slopes(values):
        at = values.detach().clone().requires_grad_()
        return torch.autograd.grad(objective.losses_of(at.view(N, CLASSES), batch).sum(), at)[0]

    jacobian = differences(lambda at: outputs(at).flatten(), theta) * free(objective)
    curvature = differences(slopes, outputs(theta).flatten())
    expected = jacobian.T @ curvature @ jacobian / N + 0.05 * torch.eye(len(theta), dtype=torch.float64)
    torch.testing.assert_close(GaussNewtonOperator(objective, data, 2).dense(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("layer", ["LSTM", "custom function"])
def test_single_hessians_without_batching(layer):
    torch.manual_seed(0)
    objective = Objective(CASES[layer]().double(), CrossEntropy())
    data = Dataset(torch.randn(3, LENGTH, WIDTH).double(), torch.tensor([0, 1, 2]), torch.arange(3))
    mean = per_example_hessians(objective, data.batch()).mean(0)
    torch.testing.assert_close(mean, dense_hessian(objective, data.batch()), rtol=1e-8, atol=1e-10)


def test_the_way_that_works_is_remembered_and_said(caplog):
    objective = Objective(After(Custom(Square)).double(), CrossEntropy())
    data = Dataset(torch.randn(3, LENGTH, WIDTH).double(), torch.tensor([0, 1, 2]), torch.arange(3))
    assert is_quick(objective.network, "products")
    with caplog.at_level(logging.INFO, "bayes_influence.objectives.ways"):
        dense_hessian(objective, data.batch())
        dense_hessian(objective, data.batch())
    assert caplog.text.count("products of After by reverse mode, one direction or example at a time") == 1
    assert not is_quick(objective.network, "products")
    assert is_quick(objective.network, "gradients")


def test_what_torch_cannot_differentiate_twice_is_refused():
    objective = Objective(After(Custom(OnceOnly)).double(), CrossEntropy())
    data = Dataset(torch.randn(3, LENGTH, WIDTH).double(), torch.tensor([0, 1, 2]), torch.arange(3))
    with pytest.raises(NoDerivativeError, match=r"not symmetric.*once_differentiable"):
        dense_hessian(objective, data.batch())
    for make in (HessianOperator, GaussNewtonOperator, EmpiricalFisherOperator):
        with pytest.raises(NoDerivativeError, match=r"not symmetric.*once_differentiable"):
            make(objective, data) @ objective.flat.theta


def test_where_every_way_fails_it_is_said_what_can_be_done():
    def lacks(what):
        def derivative():
            raise RuntimeError(f"{what} is not implemented")

        return derivative

    with pytest.raises(
        NoDerivativeError, match=r"torch has no such derivative .*its backward is not implemented.*EKFAC"
    ):
        first_way(nn.Linear(1, 1), "products", lacks("forward AD"), lacks("its backward"))


def test_a_mistake_of_the_networks_own_stays_what_it_is():
    def fails():
        raise RuntimeError("my own")

    with pytest.raises(RuntimeError, match=r"^my own$"):
        first_way(nn.Linear(1, 1), "products", fails, fails)


class Fused(nn.Module):
    """Torch's attention for processors, which has no batching rule and says so in a warning."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        y = self.layer(x).unsqueeze(1)
        return functional.scaled_dot_product_attention(y, y, y, is_causal=True).squeeze(1).mean(1)


def test_a_kernel_that_torch_cannot_batch_is_written_out():
    """No warning (they are errors here), batched gradients, and the same ones as by a loop."""
    torch.manual_seed(0)
    inputs, targets = torch.randn(N, LENGTH, WIDTH).double(), torch.arange(N) % CLASSES
    objective = Objective(Fused().double(), CrossEntropy())
    batch = Dataset(inputs, targets, torch.arange(N)).batch()
    found = per_example_gradients(objective, batch)
    assert not is_quick(objective.network, "gradients")
    params = {name: value.clone().requires_grad_() for name, value in objective.params.items()}
    losses = objective.losses(params, batch)
    for row, loss in zip(found, losses, strict=True):
        expected = torch.autograd.grad(loss, list(params.values()), retain_graph=True)
        torch.testing.assert_close(row, torch.cat([part.flatten() for part in expected]))


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad])
def test_derivatives_of_a_cube_by_reverse_mode_wherever_they_are_asked_for(mode):
    x, u, v = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def cubes(at):
        return at.pow(3)

    def total(at):
        return cubes(at).sum()

    with mode():
        found = {
            "gradient": (reverse_gradient(total, x), 3 * x**2),
            "products": (reverse_products(total, x, torch.stack([u, v], 1)), 6 * torch.stack([x * u, x * v], 1)),
            "along": (reverse_along(cubes, x, u), 3 * x**2 * u),
            "bend": (reverse_bend(cubes, x, u, v), 6 * x * u * v),
            "third": (reverse_third(total, x, u, v), 6 * u * v),
            "jacobian": (reverse_jacobian(cubes, x), torch.diag(3 * x**2)),
            "pulled": (reverse_pulled(cubes, x, u), 3 * x**2 * u),
            "small": (small_products(nn.Identity(), "outputs", total, x, u.unsqueeze(1)), (6 * x * u).unsqueeze(1)),
        }
    for value, expected in found.values():
        assert not value.requires_grad
        torch.testing.assert_close(value, expected)


def test_small_functions_that_reverse_mode_fails_for_take_forward_mode(monkeypatch):
    def lacks(*_):
        raise RuntimeError("derivative is not implemented")

    monkeypatch.setattr(ways, "reverse_products", lacks)
    x, vectors = torch.randn(3, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)
    products = small_products(nn.Identity(), "outputs", lambda at: at.pow(3).sum(), x, vectors)
    torch.testing.assert_close(products, 6 * x.unsqueeze(1) * vectors)
    with pytest.raises(NoDerivativeError, match=r"torch has no such derivative .*derivative is not implemented"):
        small_products(nn.Identity(), "outputs", lambda at: at.detach().numpy().sum(), x, vectors)


MATRIX = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
AT, FIRST, SECOND = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


def test_reverse_mode_is_the_calculus_of_sines():
    """f_c = sin(a_c't): its derivatives along u and v are cos(a_c't) a_c'u, -sin(a_c't) (a_c'u) (a_c'v), and so on."""
    sines, cosines = (MATRIX @ AT).sin(), (MATRIX @ AT).cos()
    u, v = MATRIX @ FIRST, MATRIX @ SECOND
    each = lambda theta: (MATRIX @ theta).sin()  # noqa: E731
    total = lambda theta: each(theta).sum()  # noqa: E731
    close = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)
    close(ways.reverse_gradient(total, AT), MATRIX.T @ cosines)
    columns = torch.stack([FIRST, SECOND], dim=1)
    close(ways.reverse_products(total, AT, columns), -MATRIX.T @ (sines.unsqueeze(1) * (MATRIX @ columns)))
    close(ways.reverse_bend(each, AT, FIRST, SECOND), -sines * u * v)
    close(ways.reverse_third(total, AT, FIRST, SECOND), -MATRIX.T @ (cosines * u * v))
    close(ways.reverse_jacobian(each, AT), cosines.unsqueeze(1) * MATRIX)
    nested = lambda theta: {"a": each(theta), "b": (theta.square(), theta.sum())}  # noqa: E731
    along = ways.reverse_along(nested, AT, FIRST)
    close(along["a"], cosines * u)
    close(along["b"][0], 2 * AT * FIRST)
    close(along["b"][1], FIRST.sum())
    pulled = ways.reverse_pulled(nested, AT, {"a": u, "b": (SECOND, torch.tensor(2.0).double())})
    close(pulled, MATRIX.T @ (cosines * u) + 2 * AT * SECOND + 2)


def test_reverse_mode_of_what_has_no_such_derivative_is_zero():
    """Of constants, of linear functions the second time, and of entries that do not depend on theta."""
    zero = torch.zeros(3, dtype=torch.float64)
    constant, linear = torch.ones(3).double(), lambda theta: MATRIX @ theta
    assert torch.equal(ways.reverse_gradient(lambda theta: constant.sum(), AT), zero)
    assert torch.equal(ways.reverse_products(lambda theta: linear(theta).sum(), AT, MATRIX.T), 0 * MATRIX.T)
    for function in (linear, lambda theta: constant, lambda theta: torch.cat([theta[:1].square() * 0, constant])):
        bend = ways.reverse_bend(function, AT, FIRST, SECOND)
        assert torch.equal(bend, torch.zeros_like(function(AT)))
        assert not bend.requires_grad
    assert torch.equal(ways.reverse_third(lambda theta: theta.square().sum(), AT, FIRST, SECOND), zero)
    along = ways.reverse_along(lambda theta: (theta.square(), constant), AT, FIRST)
    assert torch.equal(along[1], zero)
    torch.testing.assert_close(along[0], 2 * AT * FIRST)
    jacobian = ways.reverse_jacobian(lambda theta: torch.stack([theta[0], constant[0]]), AT)
    assert torch.equal(jacobian, torch.tensor([[1.0, 0, 0], [0, 0, 0]]).double())


def test_a_matrix_may_be_off_symmetric_by_rounding_only():
    """By the root of a double's rounding, 1.5e-8, of its largest entry."""
    matrix = torch.tensor([[100.0, 1.0], [1.0, 0.0]]).double()
    matrix[0, 1] += 1.4e-6
    assert ways.checked_symmetric(matrix) is matrix
    matrix[0, 1] += 0.2e-6
    with pytest.raises(NoDerivativeError, match=r"not symmetric \(\|H - H'\| reaches 1.6e-06\)"):
        ways.checked_symmetric(matrix)
