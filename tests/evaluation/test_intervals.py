from functools import partial

import numpy as np
import pytest
import scipy.stats

from bayes_influence.evaluation import intervals
from bayes_influence.evaluation.intervals import Interval, mean_interval, two_level_bootstrap
from bayes_influence.evaluation.statistics import kendall, pearson, spearman, top_k_overlap

VALUES = np.array([0.91, 0.97, 0.88, 0.99, 0.95, 0.93])


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
def test_students_interval_is_the_one_sample_t_tests(level):
    found = mean_interval(VALUES, level)
    expected = scipy.stats.ttest_1samp(VALUES, 0).confidence_interval(level)
    assert (found.estimate, found.n, found.undefined) == (pytest.approx(VALUES.mean()), 6, 0)
    assert found.level == level
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_two_seeds_have_the_wide_interval_of_one_degree_of_freedom():
    """t₁ is Cauchy's distribution, so that the half width is tan(0.95 π/2) s / √2, and s / √2 = |difference| / 2."""
    found = mean_interval([0.2, 0.6])
    half = np.tan(0.95 * np.pi / 2) * 0.2
    assert (found.low, found.high, found.level) == pytest.approx((0.4 - half, 0.4 + half, 0.95))


def test_undefined_seeds_are_left_out_and_counted():
    found = mean_interval([*VALUES, np.nan, np.nan])
    assert found == Interval(**{**vars(mean_interval(VALUES)), "undefined": 2})


def test_too_few_seeds_have_no_interval():
    one, none = mean_interval([0.5, np.nan]), mean_interval([np.nan])
    assert (one.estimate, one.n, one.undefined) == (0.5, 1, 1)
    assert np.isnan([one.low, one.high, none.estimate, none.low, none.high]).all()


def test_equal_seeds_have_an_interval_of_no_width():
    found = mean_interval([0.1, 0.1, 0.1])
    assert found.low == found.high == found.estimate == pytest.approx(0.1)


def correlated(generator, runs, n, correlation):
    true = generator.normal(size=(runs, n))
    noise = generator.normal(size=(runs, n))
    return correlation * true + np.sqrt(1 - correlation**2) * noise, true


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
def test_two_levels_with_one_run_is_the_bootstrap_over_points(level):
    estimated, true = correlated(np.random.default_rng(1), 1, 60, 0.8)
    found = two_level_bootstrap(estimated[0], true[0], pearson, level, n_resamples=4000)
    reference = scipy.stats.bootstrap(
        (estimated[0], true[0]),
        pearson,
        paired=True,
        method="percentile",
        n_resamples=4000,
        rng=2,
        confidence_level=level,
    ).confidence_interval
    assert found.estimate == pytest.approx(pearson(estimated[0], true[0]))
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=0.01)


@pytest.mark.parametrize(("level", "end"), [(0.95, 1.0), (0.8, 0.5), (0.3, 0.0)])
def test_runs_are_resampled(level, end):
    """Two runs of four at +1, two at -1, whatever their points: the mean is that of four tosses of a coin."""
    true = np.random.default_rng(8).normal(size=(4, 12))
    found = two_level_bootstrap(true * [[1], [1], [-1], [-1]], true, pearson, level, n_resamples=4000)
    assert found.estimate == pytest.approx(0)
    assert (found.low, found.high) == pytest.approx((-end, end))


def test_two_levels_are_wider_than_seeds_alone():
    generator = np.random.default_rng(2)
    estimated, true = correlated(generator, 8, 20, 0.6)
    both = two_level_bootstrap(estimated, true, spearman)
    seeds = mean_interval(spearman(estimated, true))
    assert both.estimate == pytest.approx(seeds.estimate)
    assert both.high - both.low > seeds.high - seeds.low


def test_identical_runs_are_only_as_certain_as_one_points_bootstrap_allows():
    estimated, true = correlated(np.random.default_rng(3), 1, 40, 0.7)
    one = two_level_bootstrap(estimated, true, pearson)
    four = two_level_bootstrap(np.repeat(estimated, 4, 0), np.repeat(true, 4, 0), pearson)
    # Points are drawn anew in every run, so the mean of four draws has half the width of one.
    assert four.high - four.low == pytest.approx((one.high - one.low) / 2, rel=0.1)


@pytest.mark.slow
def test_two_level_intervals_cover():
    generator = np.random.default_rng(4)
    covered = 0
    for _ in range(200):
        estimated, true = correlated(generator, 10, 40, 0.8)
        found = two_level_bootstrap(estimated, true, pearson, n_resamples=400)
        covered += found.low <= 0.8 <= found.high
    assert covered >= 180


def test_blocks_change_nothing_but_memory(monkeypatch):
    estimated, true = correlated(np.random.default_rng(5), 3, 10, 0.5)
    statistic = partial(top_k_overlap, top_k=3)
    whole = two_level_bootstrap(estimated, true, statistic, n_resamples=300)
    monkeypatch.setattr(intervals, "BLOCK_ELEMENTS", 1)
    small = two_level_bootstrap(estimated, true, statistic, n_resamples=300)
    assert (small.low, small.high) == pytest.approx((whole.low, whole.high), abs=0.05)
    assert small.estimate == whole.estimate


def test_blocks_are_bounded_and_make_up_all_resamples(monkeypatch):
    estimated, true = correlated(np.random.default_rng(5), 3, 10, 0.5)
    drawn = []

    def recorded(first, second):
        drawn.append(first.shape)
        return pearson(first, second)

    monkeypatch.setattr(intervals, "BLOCK_ELEMENTS", 7 * 3 * 10)
    two_level_bootstrap(estimated, true, recorded, n_resamples=30)
    assert drawn == [(3, 10), *[(7, 3, 10)] * 4, (2, 3, 10)]


def test_runs_that_are_not_finite_are_left_out_and_counted():
    estimated, true = correlated(np.random.default_rng(6), 3, 10, 0.5)
    broken = np.vstack([estimated, np.full(10, np.inf)])
    found = two_level_bootstrap(broken, np.vstack([true, true[:1]]), pearson)
    assert found == Interval(**{**vars(two_level_bootstrap(estimated, true, pearson)), "undefined": 1})
    none = two_level_bootstrap(broken[3:], true[:1], pearson)
    assert np.isnan([none.estimate, none.low, none.high]).all()


def test_a_statistic_that_is_never_defined_has_no_interval():
    found = two_level_bootstrap(np.ones((2, 5)), np.random.default_rng(7).normal(size=(2, 5)), kendall, n_resamples=20)
    assert np.isnan([found.estimate, found.low, found.high]).all()


def test_shapes_must_match():
    with pytest.raises(ValueError, match=r"must both be \(runs, n\) or \(n,\), got shapes \(2, 5\) and \(2, 4\)"):
        two_level_bootstrap(np.zeros((2, 5)), np.zeros((2, 4)), pearson)
    with pytest.raises(ValueError, match=r"one value per seed, shape \(n,\), got shape \(2, 2\)"):
        mean_interval(np.zeros((2, 2)))


@pytest.mark.parametrize("level", [0, 1, 95])
def test_the_level_is_a_probability(level):
    with pytest.raises(ValueError, match=r"between 0 and 1, such as 0\.95, got"):
        mean_interval(VALUES, level)
    with pytest.raises(ValueError, match=r"between 0 and 1, such as 0\.95, got"):
        two_level_bootstrap(VALUES, VALUES, pearson, level)


def test_an_interval_ends_where_the_statistic_does():
    free, cut = mean_interval([0.9, 0.5]), mean_interval([0.9, 0.5], bounds=(-1.0, 1.0))
    assert free.high > 1
    assert (cut.estimate, cut.low, cut.high) == (free.estimate, -1.0, 1.0)
    assert mean_interval([0.5, 0.51], bounds=(-1.0, 1.0)) == mean_interval([0.5, 0.51])


def test_resamples_are_a_whole_number(as_installed):
    for wrong, error in ((2.5, TypeError), (0, ValueError)):
        with pytest.raises(error, match="n_resamples must be"):
            two_level_bootstrap([[1.0, 2.0, 4.0]], [[1.0, 3.0, 2.0]], pearson, n_resamples=wrong)
