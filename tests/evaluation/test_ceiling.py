import numpy as np
import pytest

from bayes_influence.evaluation.ceiling import retraining_ceiling
from bayes_influence.evaluation.statistics import pearson, spearman

GENERATOR = np.random.default_rng(0)
EFFECT = GENERATOR.normal(size=20_000)
REPEATS = EFFECT + 0.5 * GENERATOR.normal(size=(4, 20_000))


def test_the_ceiling_is_what_the_effect_itself_reaches():
    found = retraining_ceiling(REPEATS)
    assert found.repeatability == pytest.approx(1 / (1 + 0.25), abs=0.01)
    assert found.single == pytest.approx(pearson(EFFECT, REPEATS[0]), abs=0.01)
    assert found.average == pytest.approx(pearson(EFFECT, REPEATS.mean(axis=0)), abs=0.01)


def test_rank_correlation_has_nearly_the_same_ceiling():
    found = retraining_ceiling(REPEATS, spearman)
    assert found.single == pytest.approx(spearman(EFFECT, REPEATS[0]), abs=0.02)
    assert found.average == pytest.approx(spearman(EFFECT, REPEATS.mean(axis=0)), abs=0.02)


def test_exact_repeats_have_no_ceiling_and_opposite_ones_nothing_but():
    exact = retraining_ceiling(np.stack([EFFECT[:10]] * 3))
    assert (exact.repeats, exact.single, exact.average) == (3, pytest.approx(1), pytest.approx(1))
    opposite = retraining_ceiling(np.stack([EFFECT[:10], -EFFECT[:10]]))
    assert opposite.repeatability == pytest.approx(-1)
    assert (opposite.single, opposite.average) == (0, 0)


def test_constant_or_broken_repeats_have_no_defined_ceiling():
    broken = REPEATS[:, :10].copy()
    broken[1, 2] = np.inf
    for repeats in (np.ones((2, 5)), broken):
        assert np.isnan(retraining_ceiling(repeats).single)


def test_one_retraining_says_nothing():
    with pytest.raises(ValueError, match=r"R >= 2 retrainings and n >= 3 examples, got \(1, 20000\)"):
        retraining_ceiling(REPEATS[:1])


def test_two_repeats_of_three_examples_are_the_fewest():
    assert retraining_ceiling([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]).single == pytest.approx(1)
    with pytest.raises(ValueError, match=r"n >= 3 examples, got \(2, 2\)"):
        retraining_ceiling([[1.0, 2.0], [1.0, 2.0]])


def test_two_retrainings_of_three_examples_are_enough():
    rows = np.array([[1.0, 2.0, 4.0], [1.0, 3.0, 2.0]])
    r = np.corrcoef(rows)[0, 1]
    found = retraining_ceiling(rows)
    assert (found.repeats, found.repeatability) == (2, pytest.approx(r))
    assert found.average == pytest.approx(np.sqrt(2 * r / (1 + r)))
