import numpy as np
import pytest
import scipy.stats

from bayes_influence.evaluation.trends import monotone_trend

GENERATOR = np.random.default_rng(0)
WIDTHS = (5, 8, 14, 20, 30)
RISING = {width: 0.1 * width + GENERATOR.normal(size=6) for width in WIDTHS}


def test_a_trend_is_found_with_its_sign_and_slope():
    found = monotone_trend(RISING)
    sizes = np.repeat(WIDTHS, 6)
    values = np.concatenate(list(RISING.values()))
    tau = scipy.stats.kendalltau(sizes, values)
    assert (found.effect_size, found.p_value) == (pytest.approx(tau.statistic), pytest.approx(tau.pvalue))
    assert found.statistic == pytest.approx(0.1, abs=0.05)
    falling = monotone_trend({width: -values for width, values in RISING.items()})
    assert (falling.statistic, falling.effect_size) == (
        pytest.approx(-found.statistic),
        pytest.approx(-found.effect_size),
    )


def test_sizes_are_ordered_by_their_value():
    shuffled = {width: RISING[width] for width in (30, 5, 20, 14, 8)}
    assert monotone_trend(shuffled) == monotone_trend(RISING)
    assert monotone_trend(RISING).groups == ("5", "8", "14", "20", "30")


def test_nothing_to_test_is_nan_with_a_reason():
    equal = monotone_trend({5: [1.0, 1.0], 8: [1.0, 1.0]})
    assert np.isnan(equal.p_value)
    assert equal.note == "all values are equal"
    assert "two groups of two values are needed" in monotone_trend({5: [1.0], 8: [1.0]}).note


def test_too_few_sizes_are_an_error():
    with pytest.raises(ValueError, match="at least two groups"):
        monotone_trend({5: [1.0, 2.0]})
