import pytest
import torch

from bayes_influence.curvature.operators.base import DenseOperator, LinearOperator, as_operator
from bayes_influence.curvature.spectrum.extremes import extreme_eigenvalues
from bayes_influence.data.batch import Batch
from bayes_influence.models.mlp import MLP
from bayes_influence.objectives.derivatives import dense_hessian
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective


def test_dense_operator_refuses_what_is_not_square() -> None:
    with pytest.raises(ValueError, match=r"needs a square matrix, got shape \(2, 3\)"):
        DenseOperator(torch.zeros(2, 3))


def test_dense_operator_refuses_an_asymmetric_matrix() -> None:
    with pytest.raises(ValueError, match="curvature is symmetric, but"):
        DenseOperator(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))


def test_a_dense_operator_is_symmetric_whatever_rounding_left() -> None:
    matrix = torch.tensor([[1.0, 0.5], [0.5 + 1e-9, 1.0]], dtype=torch.float64)
    operator = DenseOperator(matrix)
    assert not torch.equal(matrix, matrix.T)
    assert torch.equal(operator.dense(), operator.dense().T)
    torch.testing.assert_close(operator.dense(), matrix, rtol=0, atol=1e-9)


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


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e6])
def test_a_matrix_may_be_off_symmetric_by_the_root_of_rounding(size) -> None:
    """1.49e-8 in double precision, of its largest entry."""
    matrix = size * torch.tensor([[2.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    matrix[0, 1] += 2.8e-8 * size
    torch.testing.assert_close(DenseOperator(matrix).matrix, 0.5 * (matrix + matrix.T))
    matrix[0, 1] += 0.4e-8 * size
    with pytest.raises(ValueError, match="curvature is symmetric, but"):
        DenseOperator(matrix)


def test_the_hessian_of_a_network_that_is_sure_of_every_label_is_symmetric_up_to_its_rounding() -> None:
    """Where 1 - p is some units of rounding, so is the Hessian, and no more of it agrees with its transpose."""
    torch.manual_seed(0)
    network = MLP(4, 3, width=5, depth=3, activation="selu", seed=0).double()
    inputs = torch.randn(40, 4).double()
    with torch.no_grad():
        network[-1].weight *= 12 / network(inputs).std()
        logits = network(inputs)
    clear = logits.topk(2).values.diff().abs().flatten() > 10
    batch = Batch(inputs[clear], logits[clear].argmax(1))
    hessian = dense_hessian(Objective(network, CrossEntropy(), parameters="all"), batch)
    assert hessian.abs().max() < 1e-4
    extremes = extreme_eigenvalues(hessian)
    assert extremes.largest == pytest.approx(torch.linalg.eigvalsh(0.5 * (hessian + hessian.T)).max().item())


def test_a_small_matrix_that_rounding_does_not_explain_is_refused() -> None:
    with pytest.raises(ValueError, match="curvature is symmetric, but"):
        DenseOperator(1e-10 * torch.tensor([[1.0, 2.0], [0.0, 1.0]], dtype=torch.float64))


def test_damping_adds_to_the_diagonal(random_matrix) -> None:
    matrix, damping = random_matrix(torch.linspace(1, 2, 5)), torch.linspace(0.1, 0.5, 5, dtype=torch.float64)
    damped = DenseOperator(matrix) + damping
    torch.testing.assert_close(damped.diagonal(), matrix.diagonal() + damping)
    torch.testing.assert_close(damped.dense(), matrix + torch.diag(damping))
    vectors = random_matrix(torch.linspace(-1, 1, 5))
    for right in (vectors[:, 0], vectors[:, :3], vectors):
        torch.testing.assert_close(damped @ right, (matrix + torch.diag(damping)) @ right)
