from functools import partial

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import r2_score

from bayes_influence.evaluation import statistics

GENERATOR = np.random.default_rng(0)
TRUE = GENERATOR.normal(size=(4, 3, 25))
ESTIMATED = 0.5 * TRUE + GENERATOR.normal(size=(4, 3, 25))
TIED = (np.round(ESTIMATED), np.round(TRUE))

REFERENCES = {
    "pearson": lambda e, t: scipy.stats.pearsonr(e, t).statistic,
    "spearman": lambda e, t: scipy.stats.spearmanr(e, t).statistic,
    "kendall": lambda e, t: scipy.stats.kendalltau(e, t).statistic,
    "slope": lambda e, t: np.linalg.lstsq(e[:, None], t, rcond=None)[0][0],
    "r2": lambda e, t: r2_score(t, e),
    "sign_agreement": lambda e, t: np.mean([np.sign(x) == np.sign(y) for x, y in zip(e, t, strict=True)]),
}


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("data", [(ESTIMATED, TRUE), TIED], ids=["distinct", "tied"])
def test_every_row_equals_the_reference(name, data):
    estimated, true = data
    found = getattr(statistics, name)(estimated, true)
    expected = [[REFERENCES[name](e, t) for e, t in zip(es, ts, strict=True)] for es, ts in zip(*data, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def weighted_tau_by_pairs(estimated, true):
    """Vigna's tau from its definition, ranks by |true| without ties."""
    rank = np.argsort(np.argsort(-np.abs(true)))
    weight = 1 / (rank + 1.0)
    above = left = right = 0.0
    for i in range(len(true)):
        for j in range(len(true)):
            pair = (weight[i] + weight[j]) * (i != j)
            a, b = np.sign(estimated[i] - estimated[j]), np.sign(true[i] - true[j])
            above, left, right = above + pair * a * b, left + pair * a * a, right + pair * b * b
    return above / np.sqrt(left * right)


def test_weighted_kendall_follows_its_definition():
    estimated, true = np.round(ESTIMATED[0], 1), TRUE[0]
    expected = [weighted_tau_by_pairs(e, t) for e, t in zip(estimated, true, strict=True)]
    np.testing.assert_allclose(statistics.weighted_kendall(estimated, true), expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["kendall", "weighted_kendall"])
def test_long_and_short_rows_and_any_block_agree(monkeypatch, name):
    pairwise = getattr(statistics, name)(*TIED)
    monkeypatch.setattr(statistics, "BLOCK_ELEMENTS", 1)
    np.testing.assert_allclose(getattr(statistics, name)(*TIED), pairwise, rtol=1e-12)
    monkeypatch.setattr(statistics, "PAIRWISE_LENGTH", 2)
    np.testing.assert_allclose(getattr(statistics, name)(*TIED), pairwise, rtol=1e-12, atol=1e-12)


def test_weighted_kendall_punishes_swapping_large_effects_most():
    true = np.array([-8.0, 4.0, 2.0, 1.0, 0.5])
    large, small = true[[1, 0, 2, 3, 4]], true[[0, 1, 2, 4, 3]]
    assert statistics.weighted_kendall(large, true) < statistics.weighted_kendall(small, true) < 1


def test_signs_are_kept():
    for name in ("pearson", "spearman", "kendall", "weighted_kendall", "slope"):
        np.testing.assert_allclose(getattr(statistics, name)(-TRUE[0], TRUE[0]), -1, rtol=1e-12)
    np.testing.assert_array_equal(statistics.sign_agreement(-TRUE[0], TRUE[0]), 0)


def test_slope_is_of_true_on_estimated():
    np.testing.assert_allclose(statistics.slope(TRUE / 2, TRUE), 2, rtol=1e-14)


def test_r2_takes_the_estimates_at_face_value():
    true = TRUE[0]
    np.testing.assert_allclose(statistics.r2(true, true), 1)
    np.testing.assert_allclose(statistics.r2(np.broadcast_to(true.mean(-1, keepdims=True), true.shape), true), 0)
    assert (statistics.r2(3 * true, true) < -2).all()


def test_top_k_overlap_counts_the_largest_effects_of_either_sign():
    true = np.array([-9.0, 5.0, 1.0, 0.5, -0.1])
    assert statistics.top_k_overlap(np.array([3.0, 0.0, -2.0, 0.1, 0.2]), true, 2) == 0.5
    assert statistics.top_k_overlap(-true, true, 2) == 1


def test_ties_for_the_last_place_count_as_broken_at_random():
    true = np.array([3.0, 2.0, 1.0, 0.0])
    tied = np.array([5.0, 1.0, 1.0, 1.0])
    assert statistics.top_k_overlap(tied, true, 2) == pytest.approx((1 + 1 / 3) / 2)


@given(arrays(np.float64, 9, elements=st.integers(-3, 3).map(float)), st.integers(1, 9))
def test_a_constant_score_overlaps_as_chance_does(true, top_k):
    assert statistics.top_k_overlap(np.ones(9), true, top_k) == pytest.approx(top_k / 9)


@given(
    arrays(np.float64, 8, elements=st.integers(-4, 4).map(float)),
    arrays(np.float64, 8, elements=st.integers(-4, 4).map(float)),
    st.permutations(range(8)),
)
def test_the_order_of_the_examples_does_not_matter(estimated, true, order):
    order = list(order)
    measured = [getattr(statistics, name) for name in REFERENCES]
    for statistic in [*measured, statistics.weighted_kendall, partial(statistics.top_k_overlap, top_k=3)]:
        np.testing.assert_allclose(
            statistic(estimated[order], true[order]), statistic(estimated, true), rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("name", ["pearson", "spearman", "kendall", "weighted_kendall"])
def test_correlation_with_a_constant_is_not_defined(name):
    constant = np.full(7, 0.1)  # its mean in floating point is not 0.1
    assert np.isnan(getattr(statistics, name)(constant, TRUE[0, 0, :7]))
    assert np.isnan(getattr(statistics, name)(TRUE[0, 0, :7], constant))


def test_slope_of_nothing_and_r2_of_constants_are_not_defined():
    assert np.isnan(statistics.slope(np.zeros(5), TRUE[0, 0, :5]))
    assert np.isnan(statistics.r2(TRUE[0, 0, :5], np.full(5, 0.1)))


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_the_slope_does_not_depend_on_the_unit(unit):
    np.testing.assert_allclose(statistics.slope(unit * ESTIMATED, unit * TRUE), statistics.slope(ESTIMATED, TRUE))
