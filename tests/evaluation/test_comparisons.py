import numpy as np
import pytest
import scipy.stats

from bayes_influence.evaluation.comparisons import one_way_anova

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


def test_undefined_values_are_left_out_and_noted():
    found = one_way_anova({**GROUPS, "none": [*GROUPS["none"], np.nan], "wd": [1.0, np.nan]})
    assert found.p_value == one_way_anova(GROUPS).p_value
    assert found.note == "2 NaN left out; fewer than two values in wd"


def test_what_cannot_be_tested_is_nan_with_a_reason():
    single = one_way_anova({"none": [0.3], "swa": [0.4]})
    assert np.isnan([single.statistic, single.p_value, single.effect_size]).all()
    assert single.note == "fewer than two values in none, swa; two groups of two values are needed"
    constant = one_way_anova({"none": [1.0, 1.0], "swa": [1.0, 1.0]})
    assert np.isnan(constant.p_value)
    assert constant.note == "no variance in none, swa"


def test_one_group_without_variance_is_tested_with_the_others():
    groups = {**GROUPS, "exact": [1.0, 1.0, 1.0]}
    assert one_way_anova(groups).p_value == pytest.approx(scipy.stats.f_oneway(*groups.values()).pvalue)


def test_one_group_is_no_comparison():
    with pytest.raises(ValueError, match=r"at least two groups, got \['none'\]"):
        one_way_anova({"none": [1.0, 2.0]})


def test_a_row_holds_text_and_numbers_only():
    row = one_way_anova(GROUPS).to_row()
    assert row["df"] == "2, 28"
    assert row["groups"] == "none, swa, bnn"
    assert row["p_value"] == one_way_anova(GROUPS).p_value
