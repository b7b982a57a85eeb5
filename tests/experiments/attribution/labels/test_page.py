import json
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from bayes_influence.experiments.attribution.labels.of_examples import find_mislabelled
from bayes_influence.experiments.attribution.labels.page import data_id, page_of
from bayes_influence.experiments.attribution.labels.settings import LabelSettings
from bayes_influence.models.mlp import MLP
from bayes_influence.training.schedules import Schedule


def data_in(page):
    (found,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    return json.loads(found)


def test_the_page_needs_nothing_else_and_holds_the_listed_rows(issues, tmp_path):
    issues.save(tmp_path / "found.html")
    page = (tmp_path / "found.html").read_text()
    assert page == page_of(issues)
    assert not re.findall(r"""(?:src|href)=["'](?!#)""", page.replace('href="#rows"', ""))
    assert "http://" not in page
    assert "https://" not in page
    assert "default-src 'none'" in page
    data = data_in(page)
    assert [row["row"] for row in data["rows"]] == issues.ranked["row"].head(12).tolist()
    first, ranked = data["rows"][0], issues.ranked.iloc[0]
    assert first["wrong"] == ranked["wrong"]
    assert issues.ranked["epistemic"].isna().all()  # one network a fold, which cannot tell
    assert first["epistemic"] is None
    assert not re.search(r":\s*NaN", page)
    assert first["opposing"] == [int(word) for word in ranked["opposing"].split()]
    mentioned = {
        str(row) for one in data["rows"] for name in ("supporting", "opposing", "proposing") for row in one[name]
    }
    assert mentioned <= set(data["looks"])


def test_the_page_says_how_marks_are_applied(issues):
    assert "bayes-influence apply" not in page_of(issues)
    assert "by <code>read_marks</code> in Python" in page_of(issues)
    stored = page_of(replace(issues, folder=Path("runs") / "my labels"))
    assert "<code>bayes-influence apply marks.csv --run &#39;runs/my labels&#39;</code>" in stored
    assert "read_marks" not in stored


def test_a_rate_that_is_not_known_is_not_on_the_page(issues):
    ranked = issues.ranked.assign(false_discovery_rate=float("nan"), flagged=False)
    page = page_of(replace(issues, doubt="networks know little", ranked=ranked))
    assert "<p>rate: not known, as networks know little. None of 90 labels is flagged" in page
    assert [(row["false_discovery_rate"], row["flagged"]) for row in data_in(page)["rows"]] == [(None, False)] * 12


def test_what_came_with_the_data_is_escaped(issues):
    hostile = type(issues)(**{**vars(issues), "name": "</title><script>alert(2)</script>"})
    page = page_of(hostile)
    assert "alert(2)</script>" not in page
    assert page.count("<script") == 2
    assert "<b>south" not in page
    assert "<b>south</b>" in data_in(page)["classes"]


def test_pictures_are_within_the_page():
    random = torch.Generator().manual_seed(0)
    targets = torch.arange(20) % 2
    images = torch.rand(20, 1, 5, 5, generator=random) + targets[:, None, None, None].float()
    settings = LabelSettings(folds=2, seeds=(0,), listed=3, evidence=1)
    found = find_mislabelled(
        (images, targets), network=lambda: MLP((1, 5, 5), 2, width=4), schedule=Schedule(10), settings=settings
    )
    looks = data_in(page_of(found))["looks"]
    assert all(look["picture"].startswith("data:image/png;base64,") for look in looks.values())


def test_marks_of_other_rows_or_labels_are_told_apart():
    assert data_id([0, 1], ["a", "b"]) == data_id([1, 0], ["b", "a"])
    assert data_id([0, 1], ["a", "b"]) != data_id([0, 1], ["b", "a"])
    assert data_id([0, 1], ["a", "b"]) != data_id([0, 2], ["a", "b"])
    assert len(data_id([0], ["a"])) == 16


@pytest.mark.slow
def test_two_thousand_pictures_are_less_than_20_mb(issues):
    random = torch.Generator().manual_seed(0)
    looks = {row: type(issues.looks[5])("label", torch.rand(3, 32, 32, generator=random), "") for row in range(2000)}
    first = issues.ranked.iloc[0].to_dict() | {"supporting": "1 2 3", "opposing": "4 5 6", "proposing": "7 8 9"}
    ranked = pd.DataFrame([first | {"row": row} for row in range(2000)])
    many = type(issues)(**{**vars(issues), "ranked": ranked, "looks": looks, "listed": 2000})
    assert len(page_of(many)) < 20_000_000
