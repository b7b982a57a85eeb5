import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss

from bayes_influence.evaluation.calibration import (
    calibration,
    misclassification_auroc,
    out_of_distribution_auroc,
    reliability,
)

GENERATOR = np.random.default_rng(0)
P = GENERATOR.dirichlet([0.5, 0.5, 0.5], size=400)
Y = np.array([GENERATOR.choice(3, p=row) for row in P])  # calibrated by construction


def test_proper_scores_are_sklearns():
    found = calibration(P, Y)
    assert found.accuracy == pytest.approx((P.argmax(1) == Y).mean())
    assert found.nll == pytest.approx(log_loss(Y, P))
    binary = calibration(np.column_stack([1 - P[:, 0], P[:, 0]]), (Y == 0).astype(int))
    # The binary score counts one of the two classes.
    assert binary.brier == pytest.approx(2 * brier_score_loss(Y == 0, P[:, 0]))


def test_certain_and_right_is_perfect_and_certain_and_wrong_is_worst():
    right, wrong = calibration(np.eye(3), [0, 1, 2]), calibration(np.eye(3), [1, 2, 0])
    assert (right.accuracy, right.nll, right.brier, right.ece) == (1, 0, 0, 0)
    assert (wrong.accuracy, wrong.nll, wrong.brier, wrong.ece) == (0, np.inf, 2, 1)
    assert np.isnan([right.misclassification_auroc, wrong.misclassification_auroc]).all()


def test_calibration_error_by_hand():
    p = np.array([[0.9, 0.1], [0.85, 0.15], [0.3, 0.7], [0.35, 0.65]])
    found = calibration(p, [0, 1, 1, 1], n_bins=5)
    # (.8, 1]: confidence .875, accuracy .5; (.6, .8]: confidence .675, accuracy 1.
    assert found.ece == pytest.approx(0.5 * 0.375 + 0.5 * 0.325)


def test_calibrated_probabilities_have_a_small_error_and_overconfident_ones_a_large_one():
    sharpened = P**4 / (P**4).sum(1, keepdims=True)
    assert calibration(P, Y).ece < 0.06
    assert calibration(sharpened, Y).ece > 0.15


def test_the_reliability_curve_has_every_example_once():
    curve = reliability(P, Y, n_bins=10)
    assert curve["count"].sum() == 400
    assert curve["share"].sum() == pytest.approx(1)
    assert ((curve["low"] <= curve["confidence"]) & (curve["confidence"] <= curve["high"])).all()
    assert (curve["share"] * curve["accuracy"]).sum() == pytest.approx(calibration(P, Y).accuracy)
    assert curve["high"].min() > 1 / 3


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
    curve = reliability([[0.5, 0.5]], [0], n_bins=2)
    assert (curve.loc[0, "low"], curve.loc[0, "high"]) == (0, 0.5)


def test_a_confidence_that_rounding_took_above_one_belongs_to_the_last_bin():
    curve = reliability([[1 + 1e-7, 0.0], [0.3, 0.7]], [0, 1], n_bins=4)
    assert curve[["low", "high", "count"]].values.tolist() == [[0.5, 0.75, 1], [0.75, 1, 1]]


def test_one_bin_compares_mean_confidence_with_accuracy():
    (row,) = reliability(P, Y, n_bins=1).to_dict("records")
    assert (row["low"], row["high"], row["count"]) == (0, 1, 400)
    assert row["confidence"] == pytest.approx(P.max(1).mean())


def test_auroc_is_the_share_of_ordered_pairs():
    uncertainty = np.array([0.1, 0.4, 0.3, 0.4])
    correct = np.array([True, True, False, False])
    # Pairs (right, wrong): .1 < .3, .1 < .4, .4 > .3, .4 = .4.
    assert misclassification_auroc(uncertainty, correct) == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    assert out_of_distribution_auroc([0.1, 0.4], [0.3, 0.4]) == pytest.approx(0.625)
    assert out_of_distribution_auroc([0.3, 0.4], [0.1, 0.4]) == pytest.approx(0.375)


def test_a_given_uncertainty_is_used_and_entropy_otherwise():
    correct = P.argmax(1) == Y
    entropy = -(P * np.log(P)).sum(1)
    assert calibration(P, Y).misclassification_auroc == pytest.approx(misclassification_auroc(entropy, correct))
    assert calibration(P, Y, uncertainty=~correct).misclassification_auroc == 1


def test_zero_probabilities_have_an_entropy():
    found = calibration([[1.0, 0.0], [0.6, 0.4]], [0, 1])
    assert found.misclassification_auroc == 1


def test_nothing_outside_has_no_auroc():
    assert np.isnan(out_of_distribution_auroc([0.1], []))


def test_tensors_in_single_precision_are_taken():
    p, y = torch.tensor(P, dtype=torch.float32), torch.tensor(Y)
    assert calibration(p, y).brier == pytest.approx(calibration(P, Y).brier, rel=1e-6)


@pytest.mark.parametrize(
    ("p", "y", "match"),
    [
        ([[0.5, 0.6]], [0], "add to 1 in every row; pass them after softmax"),
        ([[1.5, -0.5]], [0], "at least 0"),
        ([[np.nan, 0.5]], [0], "must be finite"),
        ([[0.5, 0.5]], [2], r"targets must lie in 0\.\.1, got 2\.\.2"),
        ([[0.5, 0.5]] * 2, [-1, 0], r"targets must lie in 0\.\.1, got -1\.\.0"),
        ([[0.5, 0.5]], [0.0], "integer targets"),
        ([[0.5, 0.5]], [0, 1], r"got \(1, 2\) and \(2,\)"),
    ],
)
def test_what_are_no_probabilities_or_classes_is_refused(p, y, match):
    with pytest.raises(ValueError, match=match):
        calibration(p, y)


def test_bad_uncertainties_and_bins_are_refused():
    with pytest.raises(ValueError, match=r"both have shape \(n,\), got \(2,\) and \(3,\)"):
        misclassification_auroc([0.1, 0.2], [True, False, True])
    with pytest.raises(ValueError, match="must be finite vectors"):
        out_of_distribution_auroc([0.1, np.nan], [0.2])
    with pytest.raises(ValueError, match="at least one bin, got n_bins=0"):
        reliability(P, Y, n_bins=0)


def test_fifteen_bins_unless_said_otherwise():
    assert calibration(P, Y) == calibration(P, Y, n_bins=15)
    assert calibration(P, Y).ece != calibration(P, Y, n_bins=30).ece
    curve = reliability(P, Y)
    np.testing.assert_allclose(curve["high"] - curve["low"], 1 / 15)
