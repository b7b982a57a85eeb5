from dataclasses import replace

import numpy as np
import pytest

from bayes_influence.evaluation.agreement import agreement, agreement_by_run, bootstrap_summary, summarise
from bayes_influence.evaluation.verdict import GOOD_CORRELATION, Grade, _highest, verdict

TRUE = np.random.default_rng(0).normal(size=40)
EXACT = agreement(TRUE, TRUE)


def test_right_order_and_size_are_trusted():
    found = verdict(EXACT)
    assert found.grade is Grade.TRUSTWORTHY
    assert found.sentence == (
        "Trust the estimates: order and size are those of retraining (Spearman 1.00, Pearson 1.00, slope 1.00)."
    )


def test_right_order_with_the_wrong_size_says_the_factor():
    found = verdict(agreement(TRUE / 2, TRUE))
    assert found.grade is Grade.ORDER_ONLY
    assert "the true effects are 2 times the estimates" in found.sentence


def test_a_right_order_with_loose_magnitudes_is_more_than_an_indication():
    found = verdict(replace(EXACT, pearson=0.88, slope=1.16))
    assert found.grade is Grade.ORDER_ONLY
    assert found.sentence == (
        "Trust the order, not the size: magnitudes follow those of retraining only loosely (Spearman 1.00, Pearson "
        "0.88, slope 1.16)."
    )


@pytest.mark.parametrize(
    ("changes", "grade"),
    [
        ({"slope": 1.15}, Grade.TRUSTWORTHY),
        ({"slope": 0.84}, Grade.ORDER_ONLY),
        ({"spearman": 0.9, "pearson": 0.9}, Grade.TRUSTWORTHY),
        ({"spearman": 0.89}, Grade.INDICATIVE),
        ({"pearson": 0.89}, Grade.ORDER_ONLY),
        ({"spearman": 0.9, "pearson": 0.7}, Grade.ORDER_ONLY),
        ({"spearman": 0.49}, Grade.UNDECIDED),
        ({"spearman": 0.1}, Grade.UNTRUSTWORTHY),
        ({"spearman": -0.49}, Grade.UNTRUSTWORTHY),
        ({"spearman": -0.5}, Grade.REVERSED),
        ({"miss_relation": True}, Grade.MISS_RELATION),
        ({"spearman": np.nan}, Grade.UNDECIDED),
    ],
)
def test_grades_change_at_the_stated_thresholds(changes, grade):
    assert verdict(replace(EXACT, **changes)).grade is grade


def test_a_wrong_sign_is_said():
    assert "wrong sign" in verdict(agreement(-TRUE, TRUE)).sentence


def test_an_interval_around_zero_is_neither_a_wrong_sign_nor_a_useless_order():
    """One run of five agrees, one runs against retraining, three are noise: nothing is known but that."""
    generator = np.random.default_rng(0)
    runs = [TRUE, -TRUE, *generator.normal(size=(3, len(TRUE)))]
    summary = summarise([agreement(run, TRUE) for run in runs])
    assert summary.intervals["spearman"].low < -0.5
    assert summary.intervals["spearman"].high > 0.5
    assert verdict(summary).grade is Grade.UNDECIDED
    assert "more seeds or more removals would tell" in verdict(summary).sentence
    against = summarise([agreement(-TRUE + 0.01 * noise, TRUE) for noise in runs])
    assert verdict(against).grade is Grade.REVERSED


def test_what_cannot_be_judged_says_why():
    constant = verdict(agreement(np.ones(40), TRUE))
    assert constant.grade is Grade.UNDECIDED
    assert constant.sentence == "The estimates cannot be judged: all estimated differences are equal."
    drifting = verdict(EXACT, control_drift=2.5)
    assert drifting.grade is Grade.UNDECIDED
    assert "changes the loss by 2.5 times what a typical removal does" in drifting.sentence
    noisy = verdict(EXACT, ceiling=0.3)
    assert noisy.grade is Grade.UNDECIDED
    assert "a perfect estimate would only correlate 0.30" in noisy.sentence
    assert verdict(EXACT, ceiling=0.9, control_drift=0.2).grade is Grade.TRUSTWORTHY


def test_an_estimate_at_the_ceiling_is_as_good_as_can_be():
    found = replace(EXACT, spearman=0.75, pearson=0.75)
    assert verdict(found).grade is Grade.INDICATIVE
    assert verdict(found, ceiling=0.8).grade is Grade.TRUSTWORTHY


def test_several_runs_must_reach_the_threshold_with_their_lower_end():
    generator = np.random.default_rng(1)
    true = generator.normal(size=(4, 40))
    same = summarise(agreement_by_run(true + 0.01 * generator.normal(size=(4, 40)), true))
    assert verdict(same).grade is Grade.TRUSTWORTHY
    assert "95% interval" in verdict(same).sentence
    one_bad = true.copy()
    one_bad[0] = 0.5 * one_bad[0] + generator.normal(size=40)
    mixed = summarise(agreement_by_run(one_bad, true))
    assert mixed.intervals["spearman"].estimate > 0.75
    assert verdict(mixed).grade is not Grade.TRUSTWORTHY


def test_a_cautious_verdict_says_that_few_removals_are_why():
    """Correlations of .95 that four removals leave as low as anything are no fault of the estimates."""
    generator = np.random.default_rng(2)
    true = generator.normal(size=(3, 5))
    few = bootstrap_summary(true + 0.2 * generator.normal(size=(3, 5)), true)
    assert min(few.intervals[name].estimate for name in ("spearman", "pearson")) >= GOOD_CORRELATION
    found = verdict(few)
    assert found.grade in (Grade.INDICATIVE, Grade.UNDECIDED)
    assert "5 removals in 3 runs" in found.sentence
    assert "5 removals in 3 test examples" in verdict(few, runs="3 test examples").sentence
    assert found.sentence.endswith("more seeds or more removals would tell.")


def test_a_verdict_that_the_estimates_themselves_deserve_does_not_blame_their_number():
    assert verdict(replace(EXACT, spearman=0.8)).sentence == (
        "The estimates are an indication only: their order is partly that of retraining (Spearman 0.80, Pearson 1.00, "
        "slope 1.00)."
    )


def test_one_run_is_judged_by_its_estimate():
    one = summarise([EXACT])
    assert verdict(one).grade is Grade.TRUSTWORTHY
    assert "interval" not in verdict(one).sentence


def test_runs_without_agreement_say_why():
    found = summarise([agreement(np.ones(40), TRUE)] * 2)
    assert verdict(found).sentence == "The estimates cannot be judged: all estimated differences are equal."


def test_most_runs_decide_on_the_miss_relation():
    flagged = replace(EXACT, miss_relation=True)
    assert verdict(summarise([flagged, flagged, EXACT])).grade is Grade.MISS_RELATION
    assert verdict(summarise([flagged, EXACT])).grade is Grade.TRUSTWORTHY


def test_what_is_no_ceiling_or_drift_is_refused():
    with pytest.raises(ValueError, match=r"between 0 and 1, got 1\.2"):
        verdict(EXACT, ceiling=1.2)
    with pytest.raises(ValueError, match="at least 0, got -1"):
        verdict(EXACT, control_drift=-1)
    assert verdict(EXACT, ceiling=1).grade is Grade.TRUSTWORTHY
    assert verdict(EXACT, ceiling=0).grade is Grade.UNDECIDED


def test_drift_is_judged_from_the_stated_size():
    assert verdict(EXACT, control_drift=0.0).grade is Grade.TRUSTWORTHY
    assert verdict(EXACT, control_drift=0.99).grade is Grade.TRUSTWORTHY
    assert verdict(EXACT, control_drift=1.0).grade is Grade.UNDECIDED
    assert verdict(EXACT, ceiling=0.5).grade is Grade.TRUSTWORTHY
    assert verdict(EXACT, ceiling=0.49).grade is Grade.UNDECIDED


def test_a_wrong_sign_needs_the_upper_end_of_the_interval():
    against, unsure = (
        summarise([replace(EXACT, spearman=value) for value in values])
        for values in ((-0.7, -0.72, -0.68), (-0.9, -0.9, -0.4))
    )
    assert against.intervals["spearman"].high < -0.5
    assert verdict(against).grade is Grade.REVERSED
    assert unsure.intervals["spearman"].estimate < -0.5 < unsure.intervals["spearman"].high
    assert verdict(unsure).grade is Grade.UNTRUSTWORTHY


def test_a_summary_of_one_run_can_have_the_wrong_sign():
    assert verdict(summarise([replace(EXACT, spearman=-0.6)])).grade is Grade.REVERSED


@pytest.mark.parametrize(("n", "grade"), [(10, Grade.UNDECIDED), (100, Grade.UNTRUSTWORTHY)])
@pytest.mark.parametrize("several", [False, True], ids=["a run", "a summary of one run"])
def test_a_useless_order_is_said_only_where_the_points_can_tell(n, grade, several):
    found = replace(EXACT, spearman=0.2, pearson=0.2, n=n)
    assert verdict(summarise([found]) if several else found).grade is grade


def test_the_highest_spearman_is_that_of_bonett_and_wright():
    """tanh(atanh(.2) + 1.96 sqrt((1 + .02) / 17)) = tanh(.202733 + .480102)."""
    found = verdict(replace(EXACT, spearman=0.2, pearson=0.2, n=20))
    assert "Spearman lies below 0.59" in found.sentence


def test_sentences_say_the_slope_beside_the_correlations():
    assert "slope 2.00" in verdict(agreement(TRUE / 2, TRUE)).sentence
    assert "slope -1.00" in verdict(agreement(-TRUE, TRUE)).sentence


@pytest.mark.parametrize(("spearman", "grade"), [(0.39, Grade.UNTRUSTWORTHY), (0.41, Grade.INDICATIVE)])
def test_an_order_is_an_indication_from_half_of_the_ceiling_on(spearman, grade):
    found = replace(EXACT, spearman=spearman, pearson=spearman, n=10**6)
    assert verdict(found, ceiling=0.8).grade is grade


def test_the_highest_spearman_counts_its_own_size():
    """tanh(atanh(.8) + 1.96 sqrt((1 + .64 / 2) / 17)) = tanh(1.098612 + .546158)."""
    assert _highest(0.8, 20) == pytest.approx(0.928137, abs=1e-6)


@pytest.mark.parametrize(("highest", "grade"), [(0.39, Grade.UNTRUSTWORTHY), (0.4, Grade.UNDECIDED)])
def test_an_order_that_may_be_half_of_the_ceiling_is_undecided(monkeypatch, highest, grade):
    monkeypatch.setattr("bayes_influence.evaluation.verdict._highest", lambda spearman, n: highest)
    assert verdict(replace(EXACT, spearman=0.2, pearson=0.2), ceiling=0.8).grade is grade


@pytest.mark.parametrize("spearman", [0.1, 0.999])
def test_three_points_say_nothing_of_the_highest_spearman(spearman):
    assert _highest(spearman, 3) == 1
    assert _highest(spearman, 4) < 1
    assert (_highest(1.0, 40), _highest(-1.0, 40)) == (1, -1)
