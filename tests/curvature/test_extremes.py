from dataclasses import replace

import pytest
import torch

from bayes_influence.curvature.operators.base import DenseOperator
from bayes_influence.curvature.spectrum import extremes
from bayes_influence.curvature.spectrum.extremes import ExtremeEigenvalues, extreme_eigenvalues

ONE = ExtremeEigenvalues(largest=2.0, smallest=-1.0)


class Counting(DenseOperator):
    """Counts the vectors that it is multiplied with."""

    def __init__(self, matrix):
        super().__init__(matrix)
        self.count = 0

    def _product(self, vectors):
        self.count += vectors.shape[1]
        return super()._product(vectors)


@pytest.mark.parametrize("dense_size", [0, 59, 60])
def test_both_ends_are_algebraic(random_matrix, dense_size):
    operator = Counting(random_matrix(torch.cat([torch.linspace(-3, 1, 59), torch.tensor([7.0])])))
    found = extreme_eigenvalues(operator, tolerance=1e-9, dense_size=dense_size)
    assert (found.largest, found.smallest) == pytest.approx((7, -3), rel=1e-8)
    assert found.converged
    if dense_size < 60:
        assert found.products == operator.count
    else:
        assert (found.products, found.largest_error, found.smallest_error) == (0, 0, 0)


@pytest.mark.parametrize("most", [5, 25])
def test_what_has_not_converged_says_so_and_lies_inside(random_matrix, most):
    operator = Counting(random_matrix(torch.linspace(-3, 7, 300)))
    found = extreme_eigenvalues(operator, tolerance=1e-9, max_products=most, dense_size=0)
    assert not found.converged
    assert found.products == operator.count == most
    assert -3 < found.smallest < found.largest < 7
    # An eigenvalue is as close as the residual.
    assert 7 - found.largest < found.largest_error + 0.04
    assert found.smallest + 3 < found.smallest_error + 0.04


def test_an_invariant_subspace_is_the_end_of_it():
    """Lanczos takes as many steps as there are distinct eigenvalues, here 3."""
    diagonal = torch.tensor([-1.0, 2.0, 5.0], dtype=torch.float64).repeat(20)
    found = extreme_eigenvalues(torch.diag(diagonal), dense_size=0)
    assert (found.largest, found.smallest) == pytest.approx((5, -1))
    assert (found.products, found.converged) == (3, True)


@pytest.mark.parametrize(
    ("history", "settled"),
    [
        ([ONE] * 19, False),  # at least 20 products
        ([ONE] * 20, True),
        ([replace(ONE, largest=1.0)] * 14 + [ONE] * 6, True),
        ([replace(ONE, largest=1.0)] * 15 + [ONE] * 5, False),  # moved within the last 5 steps
        ([replace(ONE, smallest=0.0)] * 15 + [ONE] * 5, False),
        ([replace(ONE, largest=1.999, smallest=-0.999)] * 15 + [ONE] * 5, True),  # by less than 1e-3 of 2
        ([*[ONE] * 19, replace(ONE, largest_error=0.0021)], False),
        ([*[ONE] * 19, replace(ONE, smallest_error=0.0021)], False),
        ([*[ONE] * 19, replace(ONE, smallest_error=0.0019, largest_error=0.0019)], True),
    ],
)
def test_ends_have_settled_where_neither_their_residuals_nor_their_movement_say_otherwise(history, settled):
    assert extremes._has_settled(history, 1e-3) is settled


def test_a_tolerance_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="the tolerance must be positive, got 0"):
        extreme_eigenvalues(torch.eye(3), tolerance=0.0)
