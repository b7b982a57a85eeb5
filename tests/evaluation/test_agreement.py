from math import comb

import numpy as np
import pytest
import torch

from bayes_influence.evaluation import agreement as agreement_module
from bayes_influence.evaluation import statistics
from bayes_influence.evaluation.agreement import (
    STATISTICS,
    agreement,
    agreement_by_run,
    bootstrap_summary,
    default_top_k,
    is_miss_relation,
    statistic_interval,
    summarise,
)
from bayes_influence.evaluation.intervals import mean_interval, two_level_bootstrap

GENERATOR = np.random.default_rng(0)
TRUE = GENERATOR.normal(size=40)
ESTIMATED = TRUE + 0.3 * GENERATOR.normal(size=40)


def test_the_truth_agrees_with_itself():
    found = agreement(TRUE, TRUE)
    for name in STATISTICS:
        assert getattr(found, name) == pytest.approx(1), name
    assert (found.n, found.top_k, found.top_k_null, found.miss_relation, found.note) == (40, 10, 0.25, False, "")


def test_every_field_is_the_statistic_of_its_name():
    found = agreement(ESTIMATED, TRUE, top_k=7)
    for name in STATISTICS[:-1]:
        assert getattr(found, name) == getattr(statistics, name)(ESTIMATED, TRUE)
    assert found.top_k_overlap == statistics.top_k_overlap(ESTIMATED, TRUE, 7)


def test_the_opposite_sign_is_not_agreement():
    found = agreement(-TRUE, TRUE)
    assert found.spearman == pytest.approx(-1)
    assert found.slope == pytest.approx(-1)
    assert found.sign_agreement == 0


def test_the_overlaps_p_value_is_the_hypergeometric_tail():
    true = np.arange(12.0, 0, -1)
    estimated = true.copy()
    estimated[[3, 11]] = estimated[[11, 3]]  # 3 of the 4 largest stay
    found = agreement(estimated, true, top_k=4)
    assert found.top_k_overlap == 0.75
    tail = sum(comb(4, x) * comb(8, 4 - x) for x in (3, 4)) / comb(12, 4)
    assert found.top_k_p_value == pytest.approx(tail)
    assert found.top_k_null == pytest.approx(1 / 3)


def test_the_null_overlap_is_what_random_scores_get():
    generator = np.random.default_rng(1)
    overlaps = [agreement(generator.normal(size=40), TRUE, top_k=10).top_k_overlap for _ in range(300)]
    assert np.mean(overlaps) == pytest.approx(0.25, abs=0.025)


@pytest.mark.parametrize(
    ("spearman", "pearson", "overlap", "flag"),
    [
        (0.9, 0.64, 1.0, True),  # magnitudes off
        (0.9, 0.66, 1.0, False),
        (0.71, 0.71, 0.4, True),  # the largest are others
        (0.71, 0.71, 0.5, False),
        (0.7, 0.7, 0.0, False),
        (0.69, 0.69, 0.0, False),  # a low Spearman misleads nobody
        (0.3, 0.9, 1.0, False),  # magnitudes better than ranks
        (0.2, -0.2, 1.0, True),
        (np.nan, 0.5, 0.1, False),
    ],
)
def test_the_miss_relation_follows_its_definition(spearman, pearson, overlap, flag):
    assert is_miss_relation(spearman, pearson, overlap) is flag


def test_right_ranks_with_wrong_magnitudes_are_flagged():
    true = np.sort(TRUE)
    estimated = np.arange(40.0)
    estimated[-1] = 1e4
    found = agreement(estimated, true)
    assert found.spearman == pytest.approx(1)
    assert found.pearson < 0.5
    assert found.miss_relation


def test_kendall_does_not_see_a_miss_relation():
    true = np.sort(TRUE)
    assert agreement(np.exp(5 * true), true).kendall == pytest.approx(1)
    assert agreement(np.exp(5 * true), true).miss_relation


def test_constant_estimates_do_not_end_a_study():
    found = agreement(np.full(40, 0.1), TRUE)
    assert found.note == "all estimated differences are equal"
    assert np.isnan([found.spearman, found.pearson, found.kendall, found.weighted_kendall]).all()
    assert found.top_k_overlap == pytest.approx(found.top_k_null)
    assert not found.miss_relation


def test_constant_truths_do_not_end_a_study():
    found = agreement(TRUE, np.zeros(40))
    assert found.note == "all true differences are equal"
    assert np.isnan(found.r2)
    assert found.slope == 0


def test_numbers_that_are_not_finite_leave_nothing_defined():
    estimated, true = ESTIMATED.copy(), TRUE.copy()
    estimated[[2, 5]] = np.nan, np.inf
    true[7] = np.nan
    found = agreement(estimated, true)
    assert found.note == "2 of 40 estimated differences are not finite; 1 of 40 true differences are not finite"
    assert np.isnan([getattr(found, name) for name in STATISTICS]).all()
    assert np.isnan(found.top_k_p_value)


def test_tensors_are_taken():
    assert agreement(torch.tensor(ESTIMATED), torch.tensor(TRUE)) == agreement(ESTIMATED, TRUE)


def test_mistakes_in_the_call_are_errors():
    with pytest.raises(ValueError, match=r"vectors of one length \(n,\), got shapes \(40,\) and \(39,\)"):
        agreement(ESTIMATED, TRUE[1:])
    with pytest.raises(ValueError, match="at least 3 removed examples, got 2; remove more"):
        agreement([1.0, 2.0], [1.0, 2.0])
    for top_k in (0, 41):
        with pytest.raises(ValueError, match=f"between 1 and the number of examples, 40, got {top_k}"):
            agreement(ESTIMATED, TRUE, top_k)
    with pytest.raises(ValueError, match=r"shape \(runs, n\), got \(40,\) and \(40,\)"):
        agreement_by_run(ESTIMATED, TRUE)
    with pytest.raises(ValueError, match="at least one run"):
        summarise([])


@pytest.mark.parametrize(("n", "k"), [(3, 1), (7, 1), (25, 6), (40, 10), (500, 10)])
def test_k_is_a_quarter_and_at_most_ten(n, k):
    assert default_top_k(n) == k


def test_a_summary_has_the_mean_and_interval_of_every_statistic():
    generator = np.random.default_rng(2)
    true = generator.normal(size=(5, 40))
    estimated = true + generator.normal(size=(5, 40))
    estimated[4] = 1.0
    runs = agreement_by_run(estimated, true, top_k=5)
    assert runs[0] == agreement(estimated[0], true[0], top_k=5)
    summary = summarise(runs)
    assert summary.n_runs == 5
    assert set(summary.intervals) == set(STATISTICS)
    assert summary.intervals["spearman"] == mean_interval([run.spearman for run in runs])
    assert summary.intervals["spearman"].undefined == 1
    assert summary.notes == {"all estimated differences are equal": 1}
    assert summary.miss_relations == sum(run.miss_relation for run in runs)
    row = summary.to_row()
    assert row["pearson_low"] < row["pearson"] < row["pearson_high"]
    assert row["kendall_undefined"] == 1


def test_a_bootstrap_summary_has_the_same_means_and_the_two_level_intervals():
    generator = np.random.default_rng(3)
    true = generator.normal(size=(4, 30))
    estimated = true + generator.normal(size=(4, 30))
    student, bootstrap = summarise(agreement_by_run(estimated, true)), bootstrap_summary(estimated, true, seed=5)
    assert bootstrap.miss_relations == student.miss_relations
    for name in STATISTICS:
        assert bootstrap.intervals[name].estimate == pytest.approx(student.intervals[name].estimate), name
        assert bootstrap.intervals[name].low < student.intervals[name].estimate < bootstrap.intervals[name].high
    expected = two_level_bootstrap(estimated, true, statistics.spearman, seed=5)
    assert bootstrap.intervals["spearman"] == expected


@pytest.mark.parametrize("side", ["estimated", "true"])
def test_one_side_that_is_not_finite_leaves_nothing_defined(side):
    values = {"estimated": ESTIMATED.copy(), "true": TRUE.copy()}
    values[side][3] = np.inf
    found = agreement(**values)
    assert found.note == f"1 of 40 {side} differences are not finite"
    assert np.isnan([getattr(found, name) for name in STATISTICS]).all()


def test_an_overlap_may_be_of_the_largest_alone():
    assert agreement(TRUE, TRUE, top_k=1).top_k_p_value == pytest.approx(1 / 40)


def test_a_bootstrap_summary_of_one_run_resamples_its_points():
    found = bootstrap_summary(ESTIMATED[None], TRUE[None], level=0.8, seed=1).intervals["pearson"]
    assert found == two_level_bootstrap(ESTIMATED, TRUE, statistics.pearson, 0.8, seed=1)
    assert found.low < found.high


def test_a_summary_has_the_level_that_was_asked_for():
    runs = [agreement(TRUE + size * ESTIMATED, TRUE) for size in (0.0, 2.0, -0.5)]
    assert summarise(runs, 0.8).intervals["slope"] == mean_interval([run.slope for run in runs], 0.8)


def test_three_examples_are_enough_and_intervals_cover_95_percent():
    assert agreement([1.0, 2.0, 4.0], [1.0, 2.0, 4.0]).spearman == pytest.approx(1)
    runs = agreement_by_run(np.stack([ESTIMATED, TRUE]), np.stack([TRUE, TRUE]))
    assert summarise(runs) == summarise(runs, 0.95)
    found = bootstrap_summary(np.stack([ESTIMATED, TRUE]), np.stack([TRUE, TRUE]), n_resamples=20)
    assert {interval.level for interval in found.intervals.values()} == {0.95}


@pytest.mark.parametrize(("overlap", "places"), [(0.3, 3), (0.1 + 0.2, 3), (0.3 - 1e-12, 3), (0.35, 3), (0.4, 4)])
def test_an_overlap_counts_whole_places_but_for_rounding(overlap, places):
    tail = sum(comb(10, x) * comb(30, 10 - x) for x in range(places, 11)) / comb(40, 10)
    assert agreement_module._overlap_p_value(overlap, 10, 40) == pytest.approx(tail)


@pytest.mark.parametrize(("name", "low", "high"), [("spearman", -1, 1), ("r2", None, 1), ("slope", None, None)])
def test_an_interval_of_a_statistic_ends_at_its_bounds(name, low, high):
    free, found = mean_interval([0.9, -0.9]), statistic_interval(name, [0.9, -0.9])
    assert found.low == (free.low if low is None else low)
    assert found.high == (free.high if high is None else high)
