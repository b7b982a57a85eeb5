from dataclasses import replace

import pandas as pd
import pytest

from bayes_influence.evaluation.intervals import Interval
from bayes_influence.experiments.attribution.labels.page import data_id
from bayes_influence.experiments.attribution.labels.result import printed_issues


def test_files_hold_the_ranking(issues, tmp_path):
    issues.save(tmp_path / "found.csv")
    issues.save(tmp_path / "found.parquet")
    stored = pd.read_csv(tmp_path / "found.csv", keep_default_na=False)
    assert stored["row"].tolist() == issues.ranked["row"].tolist()
    assert '\'=HYPERLINK("x")' in set(stored["label"])
    identity = data_id(issues.ranked["row"].tolist(), issues.ranked["label"].tolist())
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "found.parquet"), issues.ranked.assign(data=identity))
    assert set(stored["data"]) == {identity}
    with pytest.raises(ValueError, match=r"found\.txt must end in \.csv, \.parquet or \.html, got '\.txt'"):
        issues.save(tmp_path / "found.txt")


def test_small_levels_and_flagged_rows_without_evidence_are_said(issues):
    found = replace(issues, level=0.005, listed=2).sentence
    assert found.startswith(
        "3 of 90 labels are flagged, of which 0.5% at most are expected to be right; evidence, and a line on the page, "
        "have the first 2. Estimated"
    )


@pytest.fixture
def doubted(issues):
    ranked = issues.ranked.assign(false_discovery_rate=float("nan"), flagged=False)
    return replace(issues, doubt="networks know little", ranked=ranked)


def test_a_rate_that_is_not_known_is_claimed_nowhere(doubted, tmp_path):
    assert doubted.sentence == (
        "rate: not known, as networks know little. None of 90 labels is flagged, and `wrong` puts them in an order and "
        "is no probability; search with a network that suits the data better, or with more data"
    )
    doubted.save(tmp_path / "found.csv")
    doubted.save(tmp_path / "found.parquet")
    for stored in (pd.read_csv(tmp_path / "found.csv"), pd.read_parquet(tmp_path / "found.parquet")):
        assert stored["false_discovery_rate"].isna().all()
        assert not stored["flagged"].any()
    columns = {str(column.header): list(column.cells) for column in printed_issues(doubted, 4).columns}
    assert columns["false discovery rate"] == ["not known"] * 4
    assert columns[""] == [""] * 4


def test_networks_that_a_longer_training_would_better_are_told(issues):
    loss = issues.ranked["loss"].mean()

    def told(low, gain):
        return replace(issues, longer=Interval(gain * loss, low * loss, 2 * gain * loss, 0.95, 30)).sentence

    assert f"Trained twice as long they are better by {0.2 * loss:.2g} of {loss:.2g} nats a label" in told(0.1, 0.2)
    assert "search with more epochs" in told(0.01, 0.06)
    assert [told(0.01, 0.04), told(-0.1, 0.2)] == [issues.sentence] * 2
    assert "Trained twice as long" not in issues.sentence


def test_the_sentence_says_how_many_and_what_it_rests_on(issues):
    assert issues.sentence.startswith("3 of 90 labels are flagged, of which 10% at most are expected to be right. ")
    assert "held-out networks predict 96.7% of the labels" in issues.sentence
    none = type(issues)(**{**vars(issues), "ranked": issues.ranked.assign(flagged=False)})
    assert none.sentence.startswith("none of 90 labels is flagged. Estimated share")
    assert repr(issues) == f"LabelIssues('table': {issues.sentence})"


def test_the_table_is_as_long_as_asked_and_takes_names_as_they_are(issues):
    table = printed_issues(issues, 4)
    assert table.row_count == 4
    headers = [column.header for column in table.columns]
    assert headers[:4] == ["row", "label", "proposed", "wrong"]
    assert set(table.columns[headers.index("epistemic")].cells) == {""}
