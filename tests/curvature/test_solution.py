import math
import warnings

import pytest
import torch

from bayes_influence.curvature.errors import NotConvergedError, NotConvergedWarning
from bayes_influence.curvature.operators.base import DenseOperator
from bayes_influence.curvature.solvers.solution import Solution, checked, relative_norm, relative_residual

DONE = Solution(torch.zeros(2), torch.tensor(0.01), True, 7, "guessing", 0.1)


@pytest.mark.parametrize(
    ("smallest", "largest", "expected"),
    [(0.5, 4.0, 8.0), (0.0, 4.0, math.inf), (-1.0, 4.0, math.inf), (None, 4.0, None), (0.5, None, None)],
)
def test_condition_number(smallest, largest, expected):
    solution = Solution(**{**vars(DONE), "smallest_eigenvalue": smallest, "largest_eigenvalue": largest})
    assert solution.condition_number == expected


def test_residuals_are_relative_column_by_column_but_where_nothing_was_asked_for():
    matrix = torch.diag(torch.tensor([2.0, 4.0]))
    rhs = torch.tensor([[6.0, 0.1, 0.0], [8.0, 0.0, 0.0]])
    value = torch.tensor([[3.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    expected = torch.tensor([0.4, 1.0, 2.0])  # |(0, 4)| / 10, |(.1, 0)| / .1, |(-2, 0)|
    torch.testing.assert_close(relative_residual(DenseOperator(matrix), value, rhs), expected)
    torch.testing.assert_close(relative_norm(rhs - matrix @ value, rhs), expected)
    assert float(relative_norm(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 10.0]))) == 0.5


def test_what_did_not_converge_is_not_handed_on_silently():
    stopped = Solution(torch.zeros(2, 2), torch.tensor([0.01, 0.25]), False, 7, "guessing", 0.1)
    message = "guessing stopped at relative residual 0.25, above the tolerance 0.1, after 7 iterations"
    with pytest.raises(NotConvergedError, match=f"^{message}; guess again$"):
        checked(stopped, "raise", "guess again")
    with pytest.warns(NotConvergedWarning, match=f"^{message}$"):
        assert checked(stopped, "warn") is stopped
    with warnings.catch_warnings(action="error"):
        assert checked(DONE, "raise") is DONE
