import numpy as np
import pytest
import scipy.stats

from bayes_influence.evaluation.lds import lds
from bayes_influence.evaluation.statistics import spearman

GENERATOR = np.random.default_rng(0)
N, T, M = 30, 6, 60
MASKS = GENERATOR.random((M, N)) < 0.5
TAU = GENERATOR.normal(size=(T, N))
LINEAR = MASKS @ TAU.T + GENERATOR.normal(size=T)


def test_attributions_that_add_up_to_the_outputs_score_one():
    found = lds(MASKS, TAU, LINEAR, n_resamples=50)
    np.testing.assert_allclose(found.per_test, 1)
    assert (found.score.estimate, found.score.low, found.score.high) == (pytest.approx(1),) * 3
    assert (found.n_subsets, found.n_seeds, found.score.n) == (M, 1, T)


def test_the_sign_matters():
    assert lds(MASKS, -TAU, LINEAR, n_resamples=50).score.estimate == pytest.approx(-1)


def test_removal_effects_on_a_loss_are_passed_with_a_minus():
    # Retraining a mean: the loss of a test point at the subset's mean, by removal effects on that loss.
    x = GENERATOR.normal(size=N)
    loss = np.array([0.5 * (3.0 - x[mask].mean()) ** 2 for mask in MASKS])[:, None]
    removal = (0.5 * (3.0 - (x.sum() - x) / (N - 1)) ** 2 - 0.5 * (3.0 - x.mean()) ** 2)[None]
    assert lds(MASKS, -removal, loss, n_resamples=50).score.estimate > 0.95
    assert lds(MASKS, removal, loss, n_resamples=50).score.estimate < -0.95


def test_the_score_is_spearman_over_subsets_averaged_over_test_points():
    outputs = LINEAR + 3 * GENERATOR.normal(size=(M, T))
    found = lds(MASKS, TAU, outputs)
    expected = [scipy.stats.spearmanr(MASKS @ TAU[t], outputs[:, t]).statistic for t in range(T)]
    np.testing.assert_allclose(found.per_test, expected)
    assert found.score.estimate == pytest.approx(np.mean(expected))
    assert found.score.low < found.score.estimate < found.score.high


def test_seeds_are_averaged_before_ranking():
    noise = 20 * GENERATOR.normal(size=(8, M, T))
    found = lds(MASKS, TAU, LINEAR + noise, n_resamples=50)
    np.testing.assert_allclose(found.per_test, lds(MASKS, TAU, (LINEAR + noise).mean(axis=0), n_resamples=2).per_test)
    assert found.n_seeds == 8
    assert found.score.estimate > lds(MASKS, TAU, LINEAR + noise[0], n_resamples=2).score.estimate


@pytest.mark.slow
def test_the_interval_covers_and_counts_the_choice_of_subsets():
    generator = np.random.default_rng(1)
    masks = generator.random((20_000, N)) < 0.5
    outputs = masks @ TAU.T + 3 * generator.normal(size=(20_000, T))
    population = lds(masks, TAU, outputs, n_resamples=1).score.estimate
    covered = 0
    for _ in range(100):
        drawn = generator.integers(len(masks), size=60)
        score = lds(masks[drawn], TAU, outputs[drawn], n_resamples=100).score
        covered += score.low <= population <= score.high
    assert covered >= 85


def test_constant_attributions_of_a_test_point_are_left_out_and_counted():
    tau = TAU.copy()
    tau[2] = 0
    found = lds(MASKS, tau, LINEAR, n_resamples=50)
    assert np.isnan(found.per_test[2])
    assert (found.score.estimate, found.score.n, found.score.undefined) == (pytest.approx(1), T - 1, 1)
    nothing = lds(MASKS, 0 * TAU, LINEAR, n_resamples=5).score
    assert np.isnan([nothing.estimate, nothing.low, nothing.high]).all()


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"masks must be boolean.* got int64"):
        lds(MASKS.astype(np.int64), TAU, LINEAR)
    with pytest.raises(ValueError, match=r"got shapes \(60, 30\), \(6, 30\) and \(6, 60\)"):
        lds(MASKS, TAU, LINEAR.T)
    with pytest.raises(ValueError, match="level of an interval lies between 0 and 1"):
        lds(MASKS, TAU, LINEAR, level=95)
    with pytest.raises(ValueError, match="at least 3 subsets, got 2"):
        lds(MASKS[:2], TAU, LINEAR[:2])
    broken = LINEAR.copy()
    broken[[4, 7], 1] = np.nan
    with pytest.raises(ValueError, match=r"outputs of subsets \[4, 7\] are not finite"):
        lds(MASKS, TAU, broken)
    with pytest.raises(ValueError, match="1 test points have attributions not finite"):
        lds(MASKS, np.where(np.arange(T)[:, None] == 1, np.inf, TAU), LINEAR)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
def test_with_one_test_point_the_interval_is_the_bootstrap_over_subsets(level):
    generator = np.random.default_rng(2)
    outputs = LINEAR[:, :1] + 8 * generator.normal(size=(M, 1))
    found = lds(MASKS, TAU[:1], outputs, level, n_resamples=3000).score
    reference = scipy.stats.bootstrap(
        (MASKS @ TAU[0], outputs[:, 0]),
        spearman,
        paired=True,
        method="percentile",
        n_resamples=3000,
        confidence_level=level,
        rng=3,
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=0.02)
    assert found.level == level


@pytest.mark.parametrize(("level", "end"), [(0.95, 1.0), (0.8, 0.5), (0.3, 0.0)])
def test_test_points_are_resampled(level, end):
    """Two of four test points at +1, two at -1, whatever the subsets: their mean is that of four tosses of a coin."""
    found = lds(MASKS, TAU[:4] * [[1], [1], [-1], [-1]], LINEAR[:, :4], level, n_resamples=4000).score
    assert found.estimate == pytest.approx(0)
    assert (found.low, found.high) == pytest.approx((-end, end))


def test_three_subsets_are_enough():
    assert lds(MASKS[:3], TAU, LINEAR[:3], n_resamples=5).n_subsets == 3


def test_three_subsets_are_enough_and_the_interval_covers_95_percent():
    masks = np.array([[True, False, False], [True, True, False], [True, True, True]])
    found = lds(masks, np.ones((2, 3)), np.array([[1.0, 1.0], [2.0, 3.0], [3.0, 2.0]]), n_resamples=20)
    assert found.per_test.tolist() == pytest.approx([1.0, 0.5])
    assert found.score.level == 0.95
