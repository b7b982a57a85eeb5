"""What every operator promises, whatever it is made of; a new operator adds one factory here."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from bayes_influence.curvature.operators.base import DampedOperator, DenseOperator, LinearOperator
from bayes_influence.curvature.operators.ekfac import EKFACOperator
from bayes_influence.curvature.operators.gauss_newton import EmpiricalFisherOperator, GaussNewtonOperator
from bayes_influence.curvature.operators.hessian import HessianOperator
from bayes_influence.curvature.operators.last_layer import LastLayerOperator
from bayes_influence.curvature.operators.whitened import WhitenedOperator

Case = tuple[LinearOperator, Tensor]
Factory = Callable[[pytest.FixtureRequest], Case]


def dense_case(request: pytest.FixtureRequest) -> Case:
    matrix = request.getfixturevalue("random_matrix")(torch.linspace(-1, 3, 17))
    return DenseOperator(matrix), matrix


def damped_case(request: pytest.FixtureRequest) -> Case:
    operator, matrix = dense_case(request)
    damping = torch.linspace(0, 1, 17, dtype=torch.float64)
    return DampedOperator(operator, damping), matrix + torch.diag(damping)


def whitened_case(request: pytest.FixtureRequest) -> Case:
    operator, matrix = dense_case(request)
    metric = torch.linspace(0.5, 4, 17, dtype=torch.float64)
    scale = torch.diag(metric.rsqrt())
    return WhitenedOperator(operator, metric), scale @ matrix @ scale


def of_network(make: Callable[..., LinearOperator], reference: str, selection: str = "all") -> Factory:
    """An operator of the tanh network's objective, with the dense matrix from its definition."""

    def factory(request: pytest.FixtureRequest) -> Case:
        objective = request.getfixturevalue("make_objective")(selection)
        data = request.getfixturevalue("classification")
        return make(objective, data), request.getfixturevalue(reference)(objective, data.batch())

    return factory


def of_bayesian(make: Callable[..., LinearOperator], reference: str) -> Factory:
    """An operator of a moment-propagating network's ELBO."""

    def factory(request: pytest.FixtureRequest) -> Case:
        objective = request.getfixturevalue("bayesian_objective")
        data = request.getfixturevalue("classification")
        return make(objective, data), request.getfixturevalue(reference)(objective, data.batch())

    return factory


OPERATORS: dict[str, Factory] = {
    "dense": dense_case,
    "damped": damped_case,
    "whitened": whitened_case,
    "Hessian": of_network(HessianOperator, "hessian_of"),
    "Hessian in batches": of_network(partial(HessianOperator, batch_size=7), "hessian_of"),
    "Hessian, nothing kept": of_network(partial(HessianOperator, batch_size=7, cache_bytes=0), "hessian_of"),
    "Hessian of an ELBO": of_bayesian(partial(HessianOperator, batch_size=12), "hessian_of"),
    "Gauss-Newton": of_network(partial(GaussNewtonOperator, batch_size=8), "gauss_newton_of"),
    "Gauss-Newton of moments": of_bayesian(partial(GaussNewtonOperator, batch_size=12), "gauss_newton_of"),
    "empirical Fisher": of_network(partial(EmpiricalFisherOperator, batch_size=8), "empirical_fisher_of"),
    "last layer": of_network(LastLayerOperator, "hessian_of", "last-layer"),
    "last layer without bias": of_network(LastLayerOperator, "hessian_of", ["2.weight"]),
    "EK-FAC": of_network(partial(EKFACOperator, batch_size=7), "ekfac_of"),
}


@pytest.fixture(params=OPERATORS, scope="module")
def case(request: pytest.FixtureRequest) -> Case:
    return OPERATORS[request.param](request)


def test_equals_its_dense_reference(case: Case) -> None:
    operator, reference = case
    torch.testing.assert_close(operator.dense(), reference, rtol=1e-10, atol=1e-12)
    vectors = torch.randn(len(reference), 2, dtype=reference.dtype)
    torch.testing.assert_close(operator @ vectors, reference @ vectors, rtol=1e-10, atol=1e-11)


def test_one_vector_and_a_block_agree(case: Case) -> None:
    operator, reference = case
    vectors = torch.randn(len(reference), 2, dtype=reference.dtype)
    one = operator @ vectors[:, 1]
    assert one.shape == (operator.size,)
    torch.testing.assert_close((operator @ vectors)[:, 1], one, rtol=1e-12, atol=1e-13)


def test_diagonal_and_trace(case: Case) -> None:
    operator, reference = case
    torch.testing.assert_close(operator.diagonal(), reference.diagonal(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(operator.trace(), reference.trace(), rtol=1e-10, atol=1e-12)


def test_symmetric(case: Case) -> None:
    operator, reference = case
    vectors = torch.randn(len(reference), 2, dtype=reference.dtype)
    products = vectors.T @ (operator @ vectors)
    torch.testing.assert_close(products, products.T, rtol=1e-10, atol=1e-12)


def test_linear(case: Case) -> None:
    operator, reference = case
    u, v = torch.randn(2, len(reference), 2, dtype=reference.dtype)
    torch.testing.assert_close(
        operator @ (2 * u - 3 * v), 2 * (operator @ u) - 3 * (operator @ v), rtol=1e-10, atol=1e-11
    )


def test_shape_dtype_device(case: Case) -> None:
    operator, reference = case
    assert operator.shape == tuple(reference.shape)
    product = operator @ torch.zeros(operator.size, 2, dtype=operator.dtype, device=operator.device)
    assert (product.dtype, product.device) == (operator.dtype, operator.device) == (reference.dtype, reference.device)
    assert not product.any()
    assert not product.requires_grad


def test_damping_adds_to_the_diagonal(case: Case) -> None:
    operator, reference = case
    damping = torch.rand(len(reference), dtype=reference.dtype)
    torch.testing.assert_close((operator + damping).dense(), reference + torch.diag(damping), rtol=1e-10, atol=1e-12)
    vectors = torch.randn(len(reference), 2, dtype=reference.dtype)
    torch.testing.assert_close((operator + 0.5) @ vectors, reference @ vectors + 0.5 * vectors, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close((operator + 0.5).diagonal(), reference.diagonal() + 0.5, rtol=1e-10, atol=1e-12)


def test_no_right_hand_side_gives_none(case: Case) -> None:
    operator, reference = case
    assert (operator @ torch.empty(len(reference), 0, dtype=reference.dtype)).shape == (len(reference), 0)


def test_refuses_vectors_of_another_length(case: Case) -> None:
    operator, _ = case
    with pytest.raises(ValueError, match=rf"takes vectors of shape \({operator.size},\).*got \({operator.size + 1},\)"):
        operator @ torch.zeros(operator.size + 1, dtype=operator.dtype)


def test_refuses_vectors_of_another_dtype(case: Case) -> None:
    operator, _ = case
    with pytest.raises(TypeError, match=r"works in torch.float64, got vectors in torch.float32"):
        operator @ torch.zeros(operator.size, dtype=torch.float32)


def test_refuses_negative_damping(case: Case) -> None:
    operator, _ = case
    with pytest.raises(ValueError, match="damping must be finite and at least 0"):
        operator + (-0.1)
