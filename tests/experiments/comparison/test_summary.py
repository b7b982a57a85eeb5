import numpy as np
import pandas as pd
import pytest
import scipy.stats
from rich.console import Console

from bayes_influence.evaluation.intervals import mean_interval
from bayes_influence.experiments.comparison.summary import (
    compare_groups,
    printed_table,
    shown_summary,
    summarise_results,
)


def test_summary_has_means_and_t_intervals_over_seeds(compared):
    group = compared.results.query("scheme == 'swa'")
    row = compared.summary.query("scheme == 'swa'").iloc[0]
    interval = mean_interval(group["pearson"].to_numpy(), bounds=(-1, 1))
    assert row["pearson"] == pytest.approx(group["pearson"].mean())
    assert (row["pearson_low"], row["pearson_high"]) == pytest.approx((interval.low, interval.high))
    assert row["repeats"] == 2
    assert row["gradient_norm"] == group["gradient_norm"].max()


def test_one_seed_has_no_interval_and_is_printed_without(compared):
    summary = summarise_results(compared.results.query("seed == 0"))
    assert summary["spearman_low"].isna().all()
    console = Console(width=200, record=True)
    console.print(printed_table(summary, "one seed"))
    assert "±" not in console.export_text().replace("mean ± half", "")


def test_the_printed_table_names_every_scheme_and_estimator(compared):
    console = Console(width=200, record=True)
    console.print(printed_table(compared.summary, "title"))
    text = console.export_text()
    for name in ("none", "weight-decay+swa", "bnn (variational)", "bnn (posterior-mean)", "Spearman", "seconds"):
        assert name in text


def test_a_single_test_example_is_right_in_some_seeds_and_has_no_accuracy(compared):
    summary = compared.summary.assign(test_accuracy=0.5)
    for examples, heading, told in ((1, "test right", "1/2"), (30, "test acc.", "0.500"), (None, "test acc.", "0.500")):
        shown = shown_summary(summary.assign(test_examples=examples))
        assert shown[heading].tolist() == [told] * len(summary)
        assert ("test acc." in shown) != (examples == 1)
    assert set(compared.results["test_examples"]) == {1}
    without = summarise_results(compared.results.drop(columns="test_examples"))
    assert "test acc." in shown_summary(without)


def test_anova_is_scipy_s_between_schemes_and_between_sizes():
    generator = np.random.default_rng(0)
    rows = [
        {"depth": depth, "width": 5, "scheme": scheme, "estimator": "influence", "seed": seed, "spearman": value}
        for depth in (1, 2)
        for scheme in ("none", "swa")
        for seed, value in enumerate(generator.normal(depth, 1, 6))
    ]
    results = pd.DataFrame(rows)
    table = compare_groups(results, "spearman")
    assert set(table["between"]) == {"schemes", "depths"}
    at_one = results.query("depth == 1").groupby("scheme")["spearman"].apply(np.array)
    expected = scipy.stats.f_oneway(*at_one)
    row = table.query("between == 'schemes' and at == 'depth 1, width 5'").iloc[0]
    assert (row["statistic"], row["p_value"]) == pytest.approx((expected.statistic, expected.pvalue))
    assert len(table.query("between == 'depths'")) == 2
