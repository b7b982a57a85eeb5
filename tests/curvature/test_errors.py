import pytest

from bayes_influence.curvature.errors import IndefiniteCurvatureError


@pytest.mark.parametrize(
    ("smallest", "rounding", "state", "damping"),
    [
        (-0.2, 1e-9, "indefinite", "0.22"),  # ten per cent more than what makes it 0
        (-1e-9, 1e-9, "singular to working precision", "1e-08"),  # well above what rounding hides
        (1e-10, 1e-9, "singular to working precision", "1e-08"),
        (-2e-9, 1e-9, "indefinite", "1e-08"),
    ],
)
def test_the_damping_that_is_advised_makes_the_smallest_eigenvalue_positive(smallest, rounding, state, damping):
    error = IndefiniteCurvatureError(smallest, "cholesky", rounding)
    assert error.smallest_eigenvalue == smallest
    assert str(error).startswith(f"cholesky: the curvature is {state}, its smallest eigenvalue is {smallest:.6g}. ")
    assert f"(2) raise the damping by at least {damping}; (3)" in str(error)
    assert smallest + float(damping) > rounding
