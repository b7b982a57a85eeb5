import numpy as np
import pytest
import scipy.stats

from bayes_influence.evaluation.comparisons import kruskal_wallis, one_way_anova, welch_anova

GENERATOR = np.random.default_rng(0)
GROUPS = {"none": GENERATOR.normal(0.0, 1, 10), "swa": GENERATOR.normal(0.5, 1, 12), "bnn": GENERATOR.normal(1.0, 1, 9)}


def test_anova_is_scipys_and_its_effect_the_explained_variance():
    found = one_way_anova(GROUPS)
    expected = scipy.stats.f_oneway(*GROUPS.values())
    assert (found.statistic, found.p_value) == (pytest.approx(expected.statistic), pytest.approx(expected.pvalue))
    pooled = np.concatenate(list(GROUPS.values()))
    within = sum(((values - values.mean()) ** 2).sum() for values in GROUPS.values())
    assert found.effect_size == pytest.approx(1 - within / ((pooled - pooled.mean()) ** 2).sum())
    assert (found.df, found.groups, found.sizes) == ((2, 28), ("none", "swa", "bnn"), (10, 12, 9))


def test_welch_lets_variances_differ():
    found = welch_anova({"none": GROUPS["none"], "swa": GROUPS["swa"]})
    expected = scipy.stats.ttest_ind(GROUPS["none"], GROUPS["swa"], equal_var=False)
    assert found.statistic == pytest.approx(expected.statistic**2)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.df == (1, pytest.approx(expected.df))
    assert found.effect_size == pytest.approx(found.statistic / (found.statistic + found.df[1]))


def test_kruskal_is_scipys_and_its_effect_is_one_for_separated_ranks():
    found = kruskal_wallis(GROUPS)
    expected = scipy.stats.kruskal(*GROUPS.values())
    assert (found.statistic, found.p_value) == (pytest.approx(expected.statistic), pytest.approx(expected.pvalue))
    assert found.df == (2,)
    assert found.effect_size == pytest.approx(expected.statistic / 30)
    blocks = {str(i): [float(i)] * 50 for i in range(3)}
    assert kruskal_wallis(blocks).effect_size == pytest.approx(1)


@pytest.mark.parametrize("test", [one_way_anova, welch_anova, kruskal_wallis])
def test_undefined_values_are_left_out_and_noted(test):
    found = test({**GROUPS, "none": [*GROUPS["none"], np.nan], "wd": [1.0, np.nan]})
    assert found.p_value == test(GROUPS).p_value
    assert found.note == "2 NaN left out; fewer than two values in wd"


@pytest.mark.parametrize("test", [one_way_anova, welch_anova, kruskal_wallis])
def test_what_cannot_be_tested_is_nan_with_a_reason(test):
    single = test({"none": [0.3], "swa": [0.4]})
    assert np.isnan([single.statistic, single.p_value, single.effect_size]).all()
    assert single.note == "fewer than two values in none, swa; two groups of two values are needed"
    constant = test({"none": [1.0, 1.0], "swa": [1.0, 1.0]})
    assert np.isnan(constant.p_value)
    assert constant.note in ("no variance in none, swa", "all values are equal")


def test_one_group_without_variance_stops_welch_only():
    groups = {**GROUPS, "exact": [1.0, 1.0, 1.0]}
    assert welch_anova(groups).note == "no variance in exact"
    assert one_way_anova(groups).p_value == pytest.approx(scipy.stats.f_oneway(*groups.values()).pvalue)


@pytest.mark.parametrize("test", [one_way_anova, welch_anova, kruskal_wallis])
def test_one_group_is_no_comparison(test):
    with pytest.raises(ValueError, match=r"at least two groups, got \['none'\]"):
        test({"none": [1.0, 2.0]})


def test_a_row_holds_text_and_numbers_only():
    row = one_way_anova(GROUPS).to_row()
    assert row["df"] == "2, 28"
    assert row["groups"] == "none, swa, bnn"
    assert row["p_value"] == one_way_anova(GROUPS).p_value
