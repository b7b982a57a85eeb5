"""`bi.compare` on networks and data at hand."""

import numpy as np
import pytest
import torch
from torch import nn

import bayes_influence as bi
from bayes_influence.data.dataset import Dataset
from bayes_influence.experiments.comparison import of_networks
from bayes_influence.experiments.comparison.of_networks import task_of, usual_schedule
from bayes_influence.training.deterministic import Deterministic
from bayes_influence.training.minibatch_schedule import MinibatchSchedule

SHORT = MinibatchSchedule(6, 8, 0.02)
SMALL = bi.CompareSettings(seeds=(1, 4), removals=5, refit_epochs=10)


def make_network():
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


@pytest.fixture(scope="module")
def parts():
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 3)))
    noise = torch.from_numpy(np.random.default_rng(1).normal(size=50))
    whole = Dataset(x, (x[:, 0] + noise > 0).long(), torch.arange(100, 150), "towns")
    return whole.select(range(40)), whole.select(range(40, 50))


@pytest.fixture(scope="module")
def found(parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare") / "own"
    schemes = ["weight-decay", Deterministic("stronger", weight_decay=0.1)]
    return bi.compare(make_network, *parts, schemes, SMALL, schedule=SHORT, folder=folder, progress=False)


def test_estimates_in_a_regularised_last_layer_are_held_against_its_minimum(found, parts):
    assert isinstance(found, bi.Comparison)
    assert found.results["seed"].unique().tolist() == [1, 4]
    assert set(found.summary["truth"]) == {"newton"}
    assert (found.summary["pearson"] > 0.97).all()
    smallest = found.summary.set_index("scheme")["hessian_min"]
    assert smallest["stronger"] == pytest.approx(0.1, rel=1e-3)
    assert found.test_example in parts[1].ids.tolist()
    assert set(found.differences["example"]) <= set(parts[0].ids.tolist())


def test_the_truth_is_that_of_refits_by_hand(found, parts):
    """The first network, trained as the schedule says, polished, and minimised again without one example."""
    train, test = parts
    scheme = Deterministic("stronger", weight_decay=0.1)
    (fits,) = bi.fit_schemes([scheme], make_network, train, [1], SHORT)
    row = found.differences.query("scheme == 'stronger' and seed == 1").iloc[0]
    refits = bi.Minimum().refit(fits, train, torch.tensor([int(row["example"])]))
    change = bi.loss_changes(refits, test.at(found.test_example))
    assert row["true"] == pytest.approx(float(change), rel=1e-5)


def test_what_is_finished_is_not_done_again_and_other_data_are_refused(found, parts, monkeypatch):
    def fail(cell, **options):
        raise AssertionError("a finished scheme was measured again")

    monkeypatch.setattr(of_networks, "measure_networks", fail)
    schemes = ["weight-decay", Deterministic("stronger", weight_decay=0.1)]
    again = bi.compare(make_network, *parts, schemes, SMALL, schedule=SHORT, folder=found.folder, progress=False)
    assert again.summary.equals(found.summary)
    assert {"figure.png", "findings.txt", "summary.csv"} <= {path.name for path in found.folder.iterdir()}
    train, test = parts
    other = train.with_inputs(train.inputs + 1.0)
    with pytest.raises(ValueError, match=r"belongs to another configuration: .*fingerprint"):
        bi.compare(make_network, other, test, schemes, SMALL, schedule=SHORT, folder=found.folder, progress=False)


def test_without_a_folder_nothing_is_stored(parts):
    settings = bi.CompareSettings(seeds=(0,), removals=3, test_example=145)
    found = bi.compare(make_network, *parts, ["weight-decay"], settings, schedule=SHORT, progress=False)
    assert (found.folder, found.test_example) == (None, 145)
    assert repr(found) == "Comparison(weight-decay; 1 network, test example 145)"
    assert len(found.figure("title").axes) > 2


@pytest.mark.parametrize(
    ("targets", "task"),
    [
        (torch.tensor([0, 2, 1]), ("classification", 1)),
        (torch.tensor([[0.0, 1.0], [1.0, 1.0]]), ("labels", 2)),
        (torch.tensor([[0.5], [1.0]]), ("regression", 1)),
    ],
)
def test_targets_say_what_is_predicted(targets, task):
    assert task_of(Dataset(torch.zeros(len(targets), 1), targets, torch.arange(len(targets)), "x")) == task


def test_training_is_as_that_of_a_run_when_nothing_is_said():
    schedule = usual_schedule(8000, bayesian=True)
    assert (schedule.epochs, schedule.batch_size, schedule.learning_rate) == (40, 32, 0.005)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"make_network": nn.Linear(3, 2)}, TypeError, "make_network must build a new network at every call"),
        ({"schemes": "bnn"}, TypeError, "schemes must be a list of names or schemes"),
        ({"schemes": ["bn"]}, ValueError, "unknown scheme bn; known: none"),
        ({"schemes": []}, ValueError, "schemes must be one or more of different names"),
        ({"settings": {"removals": 3}}, TypeError, r"settings must be CompareSettings\(\.\.\.\)"),
        ({"settings": bi.CompareSettings(removals=41)}, ValueError, r"removals must lie in 3\.\.40 \(towns has 40"),
        ({"settings": bi.CompareSettings(test_example=3)}, ValueError, r"no example has id \[3\]"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_any_training(parts, changes, error, message, as_installed):
    train, test = parts
    asked = {"make_network": make_network, "train": train, "test": test, "schedule": SHORT, "progress": False} | changes
    with pytest.raises(error, match=message):
        bi.compare(**asked)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"seeds": ()}, "seeds must be one or more different numbers"),
        ({"parameters": "first"}, "unknown parameters 'first'; known: last-layer, all"),
        ({"refit_epochs": 0}, "refit_epochs must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(said, message):
    with pytest.raises(ValueError, match=message):
        bi.CompareSettings(**said)


def convolutions():
    return nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))


def test_schemes_by_name_have_the_moments_that_are_usual_for_the_network(parts, monkeypatch):
    asked = []

    def stop(cell, **options):
        asked.extend(cell.schemes)
        raise KeyboardInterrupt("the first scheme was to be measured")

    monkeypatch.setattr(of_networks, "measure_networks", stop)
    settings = bi.CompareSettings(removals=3, test_example=145)
    for network in (convolutions, make_network):
        with pytest.raises(KeyboardInterrupt, match="to be measured"):
            bi.compare(network, *parts, ["bnn"], settings, schedule=SHORT, progress=False)
    moments = [(scheme.method, scheme.structure) for scheme in asked]
    assert moments == [("exact", "calibrated-covariance"), ("first-order", "diagonal")]


@pytest.mark.slow
def test_influence_under_these_moments_is_what_retraining_with_their_factors_held_gives(parts):
    schedule = MinibatchSchedule(30, 8, 0.02)
    settings = bi.CompareSettings(seeds=(0,), removals=6, test_example=145)
    found = bi.compare(convolutions, *parts, ["bnn"], settings, schedule=schedule, progress=False)
    rows = found.differences.query("estimator == 'variational'")
    assert set(found.summary["truth"]) == {"newton"}
    assert np.corrcoef(rows["estimated"], rows["true"])[0, 1] > 0.99
    assert np.polyfit(rows["true"], rows["estimated"], 1)[0] == pytest.approx(1, abs=0.1)
