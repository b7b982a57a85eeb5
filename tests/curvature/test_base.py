import pytest
import torch

from bayes_influence.curvature.operators.base import DenseOperator, LinearOperator, as_operator


def test_dense_operator_refuses_what_is_not_square() -> None:
    with pytest.raises(ValueError, match=r"needs a square matrix, got shape \(2, 3\)"):
        DenseOperator(torch.zeros(2, 3))


def test_dense_operator_refuses_an_asymmetric_matrix() -> None:
    with pytest.raises(ValueError, match="curvature is symmetric, but"):
        DenseOperator(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))


def test_damping_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a number or of shape \(2,\), got shape \(3,\)"):
        DenseOperator(torch.eye(2)) + torch.ones(3)


def test_as_operator_wraps_matrices_only() -> None:
    operator = as_operator(torch.eye(3))
    assert isinstance(operator, DenseOperator)
    assert as_operator(operator) is operator


def test_dense_form_and_diagonal_from_several_blocks_of_products() -> None:
    operator = DenseOperator(torch.diag(torch.arange(600.0)))
    torch.testing.assert_close(LinearOperator.dense(operator), operator.matrix)
    torch.testing.assert_close(LinearOperator.diagonal(operator), torch.arange(600.0))
