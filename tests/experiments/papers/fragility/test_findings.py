import numpy as np
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


def _results(values, width=5, scheme="weight-decay", column="spearman"):
    return pd.DataFrame({column: values, "depth": 1, "width": width, "scheme": scheme, "estimator": "influence"})


def _summary(values, width=5):
    return mean_table(_results(values, width), ["depth", "width", "scheme", "estimator"], ["spearman"])


@pytest.mark.parametrize(
    ("values", "column"),
    [
        ([0.5, 0.8, 0.9, 0.4, 0.6], "spearman"),
        ([0.8, 0.9, 0.95, 0.7, 0.9], "spearman"),
        ([-0.1, 0.2, 0.3, -0.2, 0.0], "spearman"),
        ([0.5, 0.8, np.nan, 0.4, np.nan], "spearman"),
        # Student's interval of this mean ends at 1, where correlations do.
        ([0.99, 0.80], "absolute_spearman"),
    ],
)
def test_agreement_with_the_published_means_is_welch_s_test(values, column):
    row = against_published(_results(values, column=column), column).iloc[0]
    theirs = published_iris().query("scheme == 'weight-decay' and depth == 1 and width == 5").iloc[0]
    name = {"spearman": "signed", "absolute_spearman": "absolute"}[column]
    own = pd.Series(values).dropna()
    test = ttest_ind_from_stats(
        own.mean(), own.std(), len(own), theirs[name], theirs[f"{name}_sd"], theirs["seeds"], equal_var=False
    )
    assert (row["ours"], row["published"]) == (pytest.approx(own.mean()), theirs[name])
    assert row["p_value"] == pytest.approx(test.pvalue)


def test_means_near_the_bound_of_a_correlation_are_not_called_apart():
    row = _results([0.99, 0.80], column="absolute_spearman")
    assert against_published(row, "absolute_spearman")["p_value"].item() == pytest.approx(0.26, abs=0.005)
    (first, *_) = published_findings(row, "absolute_spearman", ANOVA)
    assert "agrees with the published at 1 of 1 sizes" in first
    assert "Apart" not in first


@pytest.mark.parametrize("values", [[0.9], [0.9, np.nan]])
def test_one_seed_cannot_tell_whether_it_agrees(values):
    results = pd.concat([_results(values), _results([0.6, 0.7], 50)], ignore_index=True)
    (first, *_) = published_findings(results, "spearman", ANOVA)
    assert first.startswith(
        "weight-decay: signed Spearman agrees with the published at 0 of 1 sizes; whether signed Spearman agrees with "
        "the published cannot be told at 1 of 2 sizes: too few seeds; means over sizes 0.775 here and 0.311 there."
    )
    assert "width 5:" not in first
    (alone, *_) = published_findings(_results(values), "spearman", ANOVA)
    assert alone.startswith("weight-decay: whether signed Spearman agrees with the published cannot be told at 1 of 1")


def test_sentences_name_the_sizes_that_do_not_agree():
    results = pd.concat([_results([0.6, 0.7, 0.65]), _results([0.95, 0.96, 0.97], 50)], ignore_index=True)
    (first, *rest) = published_findings(results, "spearman", ANOVA)
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
