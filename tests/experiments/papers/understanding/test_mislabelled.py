import re

import pandas as pd
import pytest
import torch

from bayes_influence.data.dataset import Dataset
from bayes_influence.experiments.papers.means import mean_table
from bayes_influence.experiments.papers.understanding import mislabelled
from bayes_influence.experiments.papers.understanding.label_scores import LOSS, RANDOM, SCORES
from bayes_influence.experiments.papers.understanding.mislabelled import (
    INSPECTED,
    STUDIES,
    Mislabelled,
    flip_labels,
    inspected,
)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"datasets": ("mnist", "imagenet")},
            "unknown data set 'imagenet'; known: breast-cancer, digits, fashion-mnist",
        ),
        ({"schemes": ("bnnn",)}, "unknown scheme 'bnnn'; known: bnn, "),
        ({"schemes": ("none",)}, "retrained must be one of the schemes none, got 'weight-decay'"),
        ({"flipped": 1.0}, "flipped is a share of the labels, between 0 and 1, got 1.0"),
        ({"members": 0}, "members must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Mislabelled(**settings)


def test_data_sets_and_schemes_can_be_added_to_a_folder():
    one, other = Mislabelled(datasets=("wine",)), Mislabelled(schemes=("weight-decay", "bnn"))
    assert one.configuration() == other.configuration()
    assert one.configuration() != Mislabelled(flipped=0.2).configuration()
    assert list(other.cells()) == [
        f"part={dataset}.{scheme},seed={seed}"
        for dataset in ("mnist", "breast-cancer")
        for scheme in ("weight-decay", "bnn")
        for seed in range(2)
    ]


@pytest.mark.usefixtures("as_installed")
def test_bayesian_networks_are_those_of_the_documented_runs(monkeypatch):
    monkeypatch.setattr(mislabelled, "fit_schemes", lambda schemes, *_, **__: schemes)
    study, train = Mislabelled(), Dataset(torch.zeros(4, 3), torch.arange(4) % 2, torch.arange(4), "none")
    scheme = study.fitted("mnist", "bnn", train, [0])
    assert (scheme.method, scheme.structure) == ("first-order", "diagonal")
    assert (scheme.prior, scheme.initial_sigma) == ("fan-in", 0.2)
    assert study.fitted("mnist", "weight-decay", train, [0]).weight_decay == 0.005


def test_a_tenth_of_the_labels_becomes_another_class():
    data = Dataset(torch.zeros(200, 1), torch.arange(200) % 4, torch.arange(200), class_names=tuple("abcd"))
    wrong, flipped = flip_labels(data, 0.1, seed=0)
    assert int(flipped.sum()) == 20
    assert torch.equal(wrong.targets != data.targets, flipped)
    assert set(wrong.targets[flipped].tolist()) == {0, 1, 2, 3}
    assert torch.equal(flip_labels(data, 0.1, seed=0)[0].targets, wrong.targets)
    assert not torch.equal(flip_labels(data, 0.1, seed=1)[1], flipped)


def test_one_class_has_no_wrong_label():
    data = Dataset(torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64), torch.arange(3), "one", class_names=("a",))
    with pytest.raises(ValueError, match="one has 1 class; a wrong label needs another one"):
        flip_labels(data, 0.1, seed=0)


def test_the_largest_scores_are_inspected():
    assert inspected(torch.tensor([0.1, 3.0, -1.0, 2.0]), 0.5).tolist() == [1, 3]


def test_intervals_of_shares_stay_between_0_and_1():
    shares = pd.DataFrame({"score": ["loss"] * 3, "found": [0.8, 1.0, 1.0], "accuracy": [0.0, 0.2, 0.0]})
    row = mean_table(shares, ["score"], ["found", "accuracy"]).iloc[0]
    assert (row["found_high"], row["accuracy_low"]) == (1.0, 0.0)
    assert row["found_low"] < row["found"] < 1


def test_labels_are_found_and_put_right_and_the_summary_says_so(tmp_path, monkeypatch):
    """A table: a score finds more than chance, and accuracy comes back as labels are put right."""
    monkeypatch.setattr(mislabelled, "RETRAINED_AT", (0.15,))
    study = Mislabelled(datasets=("wine",), schemes=("weight-decay",), repeats=1, epochs=3, flipped=0.15)
    done = STUDIES[0].run(study, tmp_path, 1, False)
    found = pd.read_csv(tmp_path / "found.csv")
    assert len(found) == len(SCORES) * len(INSPECTED)
    assert (found.loc[found["inspected"] == 1.0, "found"] == 1.0).all()
    own = done.table.set_index("score")["found"]
    assert own[LOSS] > 2 * own[RANDOM]
    accuracy = pd.read_csv(tmp_path / "accuracy.csv")
    assert set(accuracy["scheme"]) == {"weight-decay"}
    assert sorted(set(accuracy["inspected"])) == [0.0, 0.15, 1.0]
    right, wrong = (accuracy[accuracy["inspected"] == share]["accuracy"].iloc[0] for share in (1.0, 0.0))
    put_right = accuracy[(accuracy["score"] == LOSS) & (accuracy["inspected"] == 0.15)]["accuracy"].iloc[0]
    assert right >= put_right >= wrong
    assert done.findings[0].startswith("wine: after inspecting 15%, the most is found by ")
    assert all(path.exists() for path in done.figures)
