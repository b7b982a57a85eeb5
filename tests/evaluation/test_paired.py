import numpy as np
import pandas as pd
import pytest
import scipy.stats

from bayes_influence.evaluation.paired import friedman, paired_comparisons

GENERATOR = np.random.default_rng(0)
SEEDS = GENERATOR.normal(size=12)  # what a seed has in common across schemes
GROUPS = {
    "none": SEEDS + 0.3 * GENERATOR.normal(size=12),
    "swa": SEEDS + 0.3 + 0.3 * GENERATOR.normal(size=12),
    "bnn": SEEDS + 1.0 + 0.3 * GENERATOR.normal(size=12),
}


def test_friedman_is_scipys_and_its_effect_is_concordance():
    found = friedman(GROUPS)
    expected = scipy.stats.friedmanchisquare(*GROUPS.values())
    assert (found.statistic, found.p_value) == (pytest.approx(expected.statistic), pytest.approx(expected.pvalue))
    assert (found.df, found.sizes) == ((2,), (12, 12, 12))
    ordered = {"a": SEEDS, "b": SEEDS + 1, "c": SEEDS + 2}
    assert friedman(ordered).effect_size == pytest.approx(1)


def test_friedman_leaves_seeds_with_nan_out_and_a_pair_only_those_of_its_own():
    broken = {**GROUPS, "swa": np.where(np.arange(12) == 4, np.nan, GROUPS["swa"])}
    kept = {name: np.delete(values, 4) for name, values in GROUPS.items()}
    found = friedman(broken)
    assert found.statistic == friedman(kept).statistic
    assert found.note == "1 seeds with NaN left out"
    table = paired_comparisons(broken)
    assert table["n"].tolist() == [11, 12, 11]
    for row, source in zip(range(3), (kept, GROUPS, kept), strict=True):
        measured = [name for name in table.columns if name != "p_holm"]
        pd.testing.assert_series_equal(table[measured].iloc[row], paired_comparisons(source)[measured].iloc[row])


def test_a_group_without_a_value_takes_no_test_from_the_others():
    broken = {**GROUPS, "empty": np.full(12, np.nan)}
    found = friedman(broken)
    assert (found.p_value, found.groups) == (friedman(GROUPS).p_value, tuple(GROUPS))
    assert found.note == "no value in empty"
    table = paired_comparisons(broken)
    within = table.query("first != 'empty' and second != 'empty'").reset_index(drop=True)
    pd.testing.assert_frame_equal(within, paired_comparisons(GROUPS))
    assert table.query("second == 'empty'")["n"].eq(0).all()
    assert table.query("second == 'empty'")["p_holm"].isna().all()
    few = friedman({**broken, "bnn": broken["empty"]})
    assert few.note == "no value in bnn, empty; fewer than three groups have values"
    assert np.isnan(few.p_value)
    assert friedman(dict.fromkeys("abc", broken["empty"])).groups == ()


def test_friedman_without_enough_is_nan_with_a_reason():
    assert friedman({name: values[:1] for name, values in GROUPS.items()}).note == "fewer than two complete seeds"
    equal = friedman({"a": SEEDS, "b": SEEDS, "c": SEEDS})
    assert np.isnan(equal.p_value)
    assert equal.note == "all groups are equal in every seed"
    with pytest.raises(ValueError, match=r"three groups, got \['none', 'swa'\]; use paired_comparisons for two"):
        friedman({name: GROUPS[name] for name in ("none", "swa")})


def test_pairs_are_wilcoxons_with_holms_correction():
    table = paired_comparisons(GROUPS)
    assert list(zip(table["first"], table["second"], strict=True)) == [("none", "swa"), ("none", "bnn"), ("swa", "bnn")]
    for _, row in table.iterrows():
        difference = GROUPS[row["first"]] - GROUPS[row["second"]]
        assert row["p_value"] == pytest.approx(scipy.stats.wilcoxon(difference).pvalue)
        ends = scipy.stats.ttest_1samp(difference, 0).confidence_interval()
        assert (row["low"], row["high"]) == (pytest.approx(ends.low), pytest.approx(ends.high))
        assert row["d_z"] == pytest.approx(difference.mean() / difference.std(ddof=1))
    ordered = np.sort(table["p_value"])
    holm = np.minimum(1, np.maximum.accumulate(ordered * [3, 2, 1]))
    np.testing.assert_allclose(np.sort(table["p_holm"]), holm)


@pytest.mark.parametrize("level", [0.5, 0.8])
def test_the_interval_of_a_pair_has_the_level_that_was_asked_for(level):
    row = paired_comparisons({"none": GROUPS["none"], "swa": GROUPS["swa"]}, level).iloc[0]
    ends = scipy.stats.ttest_rel(GROUPS["none"], GROUPS["swa"]).confidence_interval(level)
    assert (row["low"], row["high"]) == (pytest.approx(ends.low), pytest.approx(ends.high))


def test_two_seeds_are_the_fewest_that_are_tested():
    row = paired_comparisons({"a": [1.0, 3.0], "b": [0.0, 0.0]}).iloc[0]
    assert (row["rank_biserial"], row["p_value"]) == (1, pytest.approx(0.5))
    assert friedman({"a": [1.0, 1.0], "b": [2.0, 2.0], "c": [3.0, 3.0]}).effect_size == pytest.approx(1)
    assert friedman({"a": [1.0, 2.0], "b": [1.0, 2.0], "c": [1.0, 2.0]}).note == "all groups are equal in every seed"


def test_the_sign_of_a_paired_effect_is_first_minus_second():
    row = paired_comparisons({"bnn": SEEDS + 1, "none": SEEDS + 0.01 * np.arange(12)}).iloc[0]
    assert row["mean_difference"] > 0
    assert row["rank_biserial"] == pytest.approx(1)
    assert row["p_value"] == pytest.approx(2**-11)


def test_rank_biserial_weighs_the_signs_by_rank():
    row = paired_comparisons({"a": [1.0, 2.0, -3.0], "b": [0.0, 0.0, 0.0]}).iloc[0]
    assert row["rank_biserial"] == pytest.approx((1 + 2 - 3) / 6)


def test_equal_groups_do_not_differ():
    row = paired_comparisons({"a": SEEDS, "b": SEEDS}).iloc[0]
    assert (row["p_value"], row["p_holm"], row["rank_biserial"], row["mean_difference"]) == (1, 1, 0, 0)
    assert np.isnan(row["d_z"])


def test_one_seed_tests_nothing():
    row = paired_comparisons({"a": [1.0], "b": [2.0]}).iloc[0]
    assert row["mean_difference"] == -1
    assert np.isnan([row["low"], row["p_value"], row["p_holm"], row["rank_biserial"]]).all()


def test_paired_groups_must_be_equally_long():
    with pytest.raises(ValueError, match=r"for the same seeds, got lengths \{'a': 2, 'b': 3\}"):
        paired_comparisons({"a": [1.0, 2.0], "b": [1.0, 2.0, 3.0]})
    with pytest.raises(ValueError, match="at least two groups"):
        paired_comparisons({"a": [1.0, 2.0]})


def test_intervals_cover_95_percent_and_three_groups_are_enough():
    groups = {name: np.random.default_rng(index).normal(size=7) for index, name in enumerate("abc")}
    pd.testing.assert_frame_equal(paired_comparisons(groups), paired_comparisons(groups, 0.95))
    assert friedman(groups).p_value == pytest.approx(scipy.stats.friedmanchisquare(*groups.values()).pvalue)
