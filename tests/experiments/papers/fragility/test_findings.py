import pandas as pd
import pytest
from scipy.stats import ttest_ind_from_stats

from bayes_influence.experiments.papers.fragility.findings import (
    against_published,
    corrected_findings,
    published_findings,
)
from bayes_influence.experiments.papers.fragility.tables import published_iris
from bayes_influence.experiments.papers.means import mean_table

ANOVA = pd.DataFrame({"between": ["schemes", "schemes", "depths"], "p_value": [0.2, 0.001, 0.4]})


def _summary(values, width=5, scheme="weight-decay"):
    results = pd.DataFrame({"spearman": values, "depth": 1, "width": width, "scheme": scheme, "estimator": "influence"})
    return mean_table(results, ["depth", "width", "scheme", "estimator"], ["spearman"])


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.3, -0.6])
def test_agreement_with_the_published_means_is_welch_s_test(shift):
    values = [0.5 + shift, 0.8 + shift, 0.9 + shift, 0.4 + shift, 0.6 + shift]
    row = against_published(_summary(values), "spearman").iloc[0]
    theirs = published_iris().query("scheme == 'weight-decay' and depth == 1 and width == 5").iloc[0]
    own = pd.Series(values)
    test = ttest_ind_from_stats(
        own.mean(), own.std(), 5, theirs["signed"], theirs["signed_sd"], theirs["seeds"], equal_var=False
    )
    assert row["difference"] == pytest.approx(own.mean() - theirs["signed"])
    assert row["agrees"] == (test.pvalue >= 0.05)
    assert (row["low"] <= 0 <= row["high"]) == row["agrees"]


def test_sentences_name_the_sizes_that_do_not_agree():
    summary = pd.concat([_summary([0.6, 0.7, 0.65]), _summary([0.95, 0.96, 0.97], 50)], ignore_index=True)
    (first, *rest) = published_findings(summary, "spearman", ANOVA)
    assert first.startswith("weight-decay: signed Spearman agrees with the published at 1 of 2 sizes; means over sizes")
    assert "Apart: depth 1, width 50: 0.96 against -0.0326" in first
    assert rest[0] == (
        "One-way ANOVA of the signed Spearman between schemes: p < 0.05 in 1 of 2 tests (smallest p 1.0e-03); the "
        "paper finds no significant difference."
    )


def test_corrected_sentences_have_both_ends_with_their_intervals():
    summary = pd.concat([_summary([0.99, 0.98]), _summary([1.0, 1.0], 50)], ignore_index=True)
    first = corrected_findings(summary, "spearman", ANOVA)[0]
    assert first == (
        "weight-decay: mean signed Spearman from 0.985 (0.921 … 1) at depth 1, width 5, to 1 (1 … 1) at depth 1, "
        "width 50, 2 seeds."
    )
