import numpy as np
import pytest

from bayes_influence.evaluation.spectral_attribution import BANDS, spectral_attribution

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
