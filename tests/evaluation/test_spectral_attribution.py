import numpy as np
import pytest

from bayes_influence.evaluation.spectral_attribution import BANDS, score_shares, spectral_attribution, trace_shares

EIGENVALUES = np.array([-1e-4, 1e-5, 5e-3, 0.02, 0.5, 2.0])


@pytest.fixture
def gradients():
    generator = np.random.default_rng(1)
    return generator.normal(size=6), generator.normal(size=(8, 6))


def test_directions_are_sorted_into_bands(gradients):
    found = spectral_attribution(EIGENVALUES, *gradients, delta=0.01, n_train=10).set_index("band")
    assert found.index.tolist() == list(BANDS)
    assert found["directions"].to_dict() == {"outlying": 2, "bulk": 1, "near-null": 2, "negative": 1}
    assert found["trace_share"].sum() == pytest.approx(1.0)


def test_shares_are_a_regression_on_the_scores_and_add_up_to_one(gradients):
    tests, examples = gradients
    found = spectral_attribution(EIGENVALUES, tests, examples, delta=0.01, n_train=10).set_index("band")
    scores = examples @ np.diag(1 / (EIGENVALUES + 0.01)) @ tests / 10
    outlying = examples[:, 4:] @ (tests[4:] / (EIGENVALUES[4:] + 0.01)) / 10
    assert found.loc["outlying", "score_share"] == pytest.approx(np.polyfit(scores, outlying, 1)[0])
    assert found.loc["outlying", "mean_size"] == pytest.approx(np.abs(outlying).mean())
    assert found["score_share"].sum() == pytest.approx(1.0)


def test_a_score_of_one_direction_comes_from_its_band(gradients):
    tests, examples = np.zeros(6), gradients[1]
    tests[3] = 1.0
    found = spectral_attribution(EIGENVALUES, tests, examples, delta=0.01, n_train=10).set_index("band")
    assert found["score_share"].tolist() == pytest.approx([0.0, 1.0, 0.0, 0.0])


def test_without_damping_near_null_is_below_a_thousandth_of_the_largest(gradients):
    found = spectral_attribution(EIGENVALUES[1:], gradients[0][1:], gradients[1][:, 1:], 0.0, 10).set_index("band")
    assert found.loc["near-null", "directions"] == 1


def test_constant_scores_have_no_shares():
    found = spectral_attribution(EIGENVALUES, np.ones(6), np.ones((4, 6)), delta=0.01, n_train=10)
    assert found["score_share"].isna().all()


def test_damping_that_does_not_reach_is_refused(gradients):
    with pytest.raises(ValueError, match=r"the damping 1e-05 does not outweigh the smallest eigenvalue -0.0001"):
        spectral_attribution(EIGENVALUES, *gradients, delta=1e-5, n_train=10)


@pytest.mark.parametrize(
    ("eigenvalue", "delta", "band"),
    [
        (0.1, 0.0, "outlying"),  # a tenth of the largest, 1
        (0.15, 0.0, "outlying"),
        (0.0999, 0.0, "bulk"),
        (0.001, 0.0, "bulk"),
        (0.0015, 0.0, "bulk"),
        (0.000999, 0.0, "near-null"),
        (0.0, 0.0, "near-null"),
        (-1e-12, 0.0, "near-null"),
        (-2e-12, 0.0, "negative"),
        (0.05, 0.05, "bulk"),
        (0.0499, 0.05, "near-null"),
        (0.5, 0.5, "outlying"),
        (0.49, 0.5, "near-null"),
    ],
)
def test_bands_begin_at_the_stated_thresholds(eigenvalue, delta, band):
    found = trace_shares(np.array([1.0, eigenvalue]), np.array([1.0, 7.0]), delta).set_index("band")
    expected = dict.fromkeys(BANDS, 0.0) | {"outlying": 1.0}
    expected[band] += 7
    assert found["directions"].to_dict() == expected
    assert found.loc[band, "trace_share"] == pytest.approx(
        (7 * abs(eigenvalue) + (band == "outlying")) / (1 + 7 * abs(eigenvalue))
    )


def test_the_largest_eigenvalue_may_be_known_otherwise(gradients):
    """Ritz values of a test gradient need not reach it."""
    tests, examples = gradients
    found = score_shares(EIGENVALUES, tests, examples, 0.01, 10, largest=6.0).set_index("band")
    scores, outlying = examples @ (tests / (EIGENVALUES + 0.01)), examples[:, 5] * tests[5] / (EIGENVALUES[5] + 0.01)
    assert found.loc["outlying", "score_share"] == pytest.approx(np.polyfit(scores, outlying, 1)[0])


def test_shares_do_not_depend_on_the_unit_of_the_scores(gradients):
    tests, examples = gradients
    one, other = (spectral_attribution(EIGENVALUES, tests * unit, examples, 0.01, 10) for unit in (1, 1e-6))
    np.testing.assert_allclose(other["score_share"], one["score_share"])
    np.testing.assert_allclose(other["mean_size"], 1e-6 * one["mean_size"])


def test_damping_that_only_equals_the_smallest_eigenvalue_is_refused(gradients):
    with pytest.raises(ValueError, match=r"the damping 0[.]5 does not outweigh the smallest eigenvalue -0[.]5"):
        spectral_attribution(np.array([-0.5, 0.1, 0.2, 0.3, 0.4, 1.0]), *gradients, delta=0.5, n_train=10)


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
def test_bands_do_not_depend_on_the_unit_of_the_curvature(unit):
    eigenvalues = unit * np.array([1.0, 0.2, 0.05, 5e-4, 0.0, -5e-13, -5e-12])
    found = trace_shares(eigenvalues, np.ones(7), 0.0).set_index("band")
    assert found["directions"].to_dict() == {"outlying": 2, "bulk": 1, "near-null": 3, "negative": 1}
