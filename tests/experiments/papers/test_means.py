import numpy as np
import pandas as pd
import pytest
import scipy.stats

from bayes_influence.experiments.papers.means import mean_table, with_interval


@pytest.fixture
def results():
    values = {"pearson": [0.9, 0.98, 0.7], "found": [0.0, 0.1, 0.5], "slope": [1.0, 1.2, 2.0]}
    return pd.DataFrame({"model": ["a"] * 3, "seed": range(3), **values, "odd": [0.0, 0.0, 0.05]})


def test_means_have_students_interval_over_seeds(results):
    (row,) = mean_table(results, ["model"], ["slope"]).to_dict("records")
    values = results["slope"].to_numpy()
    low, high = scipy.stats.t.interval(0.95, 2, values.mean(), values.std(ddof=1) / np.sqrt(3))
    assert (row["model"], row["repeats"]) == ("a", 3)
    assert (row["slope"], row["slope_low"], row["slope_high"]) == pytest.approx((1.4, low, high))


def test_intervals_stay_within_what_a_statistic_or_a_share_can_be(results):
    table = mean_table(results, ["model"], ["pearson", "found", "odd"], shares=["odd"]).iloc[0]
    assert table["pearson_high"] == 1
    assert table["found_low"] == 0
    assert table["odd_low"] == 0
    assert mean_table(results, ["model"], ["odd"]).iloc[0]["odd_low"] < 0


def test_a_mean_is_said_with_its_interval_where_there_is_one(results):
    row = mean_table(results, ["model"], ["slope"]).iloc[0]
    assert with_interval(row, "slope", 2) == f"1.4 ({row['slope_low']:.2g} … {row['slope_high']:.2g})"
    assert with_interval(mean_table(results.head(1), ["model"], ["slope"]).iloc[0], "slope") == "1"
