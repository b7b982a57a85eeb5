import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import bayes_influence as bi
from bayes_influence.experiments.attribution.labels import of_examples
from bayes_influence.experiments.attribution.labels.of_examples import find_mislabelled
from bayes_influence.experiments.attribution.labels.settings import LabelSettings, in_minibatches
from bayes_influence.training.schedules import Schedule
from tests.documented import documented_columns

QUICK = {"settings": LabelSettings(folds=3, seeds=(0,), listed=5), "schedule": Schedule(60, 0.05)}


def test_wrong_labels_are_first_flagged_and_mended_by_the_proposal(issues, towns):
    top = issues.ranked.head(3)
    assert sorted(top["row"]) == [5, 30, 61]
    assert top["flagged"].all()
    assert issues.flagged["row"].tolist() == top["row"].tolist()
    names = ["north", "<b>south</b>", '=HYPERLINK("x")']
    assert [names[row % 3] for row in top["row"]] == top["proposed"].tolist()
    assert top["label"].tolist() == towns["label"][top["row"]].tolist()
    assert (top["margin"] < 0).all()
    assert (issues.ranked["margin"].iloc[10:] > 0).all()
    assert (top["loss"] > issues.ranked["loss"].iloc[5:].max()).all()
    assert (top["self_influence"] > issues.ranked["self_influence"].median()).all()
    assert issues.ranked["false_discovery_rate"].is_monotonic_increasing


def test_rows_of_the_true_class_argue_against_a_wrong_label_and_others_for_it(issues, towns):
    labels = towns["label"]
    for row in issues.ranked.head(3).itertuples():
        opposing, proposing = ([int(word) for word in cell.split()] for cell in (row.opposing, row.proposing))
        assert len(opposing) == 3
        assert not {*opposing, *proposing} & set(issues.flagged["row"])
        assert {labels[other] for other in proposing} == {row.proposed}
        assert row.proposed in {labels[other] for other in opposing}
        assert row.label in {labels[int(word)] for word in row.supporting.split()}
    assert (issues.ranked["supporting"].iloc[12:] == "").all()


def test_rows_that_differ_in_the_label_alone_are_named(towns):
    doubled = pd.concat([towns, towns.iloc[[7]].assign(label="north"), towns.iloc[[8]]], ignore_index=True)
    ranked = find_mislabelled(doubled, "label", **QUICK).ranked.set_index("row")
    assert ranked["twins"][7] == "90"
    assert ranked["twins"][90] == "7"
    assert (ranked["twins"].drop([7, 90]) == "").all()


@pytest.mark.parametrize(
    "index", [pd.Index([f"t{number}" for number in range(90)]), pd.RangeIndex(89, -1, -1)], ids=["names", "numbers"]
)
def test_rows_keep_the_names_that_a_frame_has_for_them(towns, issues, index):
    ranked = find_mislabelled(towns.set_index(index), "label", **QUICK).ranked
    documented = documented_columns("find_mislabelled.md", "Of a search")
    assert ranked.columns.tolist() == [name for name in documented if name not in ("file", "data")]
    assert ranked["index"].tolist() == [index[row] for row in ranked["row"]]
    named = towns.set_index(index).loc[ranked["index"], "label"]
    assert named.tolist() == ranked["label"].tolist()
    assert "index" not in issues.ranked


def test_arrays_loaders_and_networks_of_ones_own_are_taken():
    random = np.random.default_rng(1)
    targets = np.arange(60) % 2
    inputs = random.normal(size=(60, 2)) + 5.0 * targets[:, None]
    targets[[3, 10]] = 1 - targets[[3, 10]]
    alone = find_mislabelled((inputs, targets), **QUICK)
    assert sorted(alone.ranked["row"].head(2)) == [3, 10]
    images = torch.from_numpy(inputs).float().reshape(60, 1, 1, 2)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(images, torch.from_numpy(targets)), batch_size=8, shuffle=True
    )
    own = find_mislabelled(loader, network=lambda: nn.Sequential(nn.Flatten(), nn.Linear(2, 2)), **QUICK)
    assert sorted(own.ranked["row"].head(2)) == [3, 10]


@pytest.mark.parametrize("network", [None, lambda: nn.Linear(2, 2)])
def test_networks_of_ones_own_are_trained_in_minibatches(issues, network, monkeypatch):
    asked = []

    def search(examples, make_network, schemes, schedule, settings, **rest):
        asked.append((len(schemes), schedule))
        return issues

    monkeypatch.setattr(of_examples, "search_labels", search)
    find_mislabelled((np.arange(180.0).reshape(90, 2), np.arange(90) % 2), network=network)
    assert asked == [(3, Schedule(200, 0.02)) if network is None else (1, in_minibatches(90))]


def test_a_bayesian_scheme_says_how_sure_it_is(towns):
    few = bi.find_schemes(["bnn"], {"prior": "fan-in", "initial_sigma": 0.2})
    settings = LabelSettings(folds=2, seeds=(0,), listed=1, evidence=0)
    found = find_mislabelled(towns, "label", schemes=few, settings=settings, schedule=Schedule(5, 0.05))
    assert (found.ranked["epistemic"] > 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop(columns="label"), "there is no column 'label'; there are east, up, place"),
        (lambda frame: frame.assign(label="north"), "the target 'label' is north in every row; nothing can be learned"),
        (lambda frame: frame.assign(label=[*["a"] * 89, "b"]), "the class b of 'label' has one member, at least 2"),
        (lambda frame: frame.assign(east=[None, *frame["east"][1:]]), "column 'east' misses 1 of 90 values"),
        (lambda frame: frame.assign(east=["x", *frame["east"][1:]]), "column 'east' mixes numbers and text"),
        (lambda frame: frame.assign(label=[None, *frame["label"][1:]]), "the target 'label' is missing in 1 of 90"),
        (lambda frame: frame.assign(label=np.arange(90) / 7), "of 'label' has one member, at least 2 are needed"),
    ],
)
def test_tables_that_cannot_be_searched_are_refused(towns, change, message):
    with pytest.raises(ValueError, match=message):
        find_mislabelled(change(towns), "label", **QUICK)


def test_data_that_need_a_network_or_are_no_classes_are_refused(as_installed):
    images = (torch.zeros(6, 1, 4, 4), torch.arange(6) % 2)
    with pytest.raises(TypeError, match=r"without a network the inputs must be one table of numbers, \(n, features\)"):
        find_mislabelled(images)
    with pytest.raises(TypeError, match=r"every example has one class, whole numbers of shape \(6,\), got torch.float"):
        find_mislabelled((torch.zeros(6, 2), torch.zeros(6)), network=lambda: nn.Linear(2, 2), **QUICK)
    with pytest.raises(TypeError, match=r"settings must be LabelSettings\(\.\.\.\), got int 3"):
        find_mislabelled(images, settings=3)
