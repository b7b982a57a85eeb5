import re

import numpy as np
import pandas as pd
import pytest
import torch

from bayes_influence.experiments.papers.groups import network
from bayes_influence.experiments.papers.groups.data import gaussian_blobs
from bayes_influence.experiments.papers.groups.network import (
    CONDITIONS,
    KEYS,
    STUDIES,
    NetworkGroups,
    NetworkScale,
    agreement_by_stage,
    fitted_network,
    groups_of,
    protocols,
    stage_gaps,
)
from bayes_influence.experiments.papers.groups.orders import EQUATION_17, ESTIMATORS, FIRST
from bayes_influence.experiments.papers.scaled import ScaledCell
from bayes_influence.objectives.reweighting import Removals
from bayes_influence.retraining.linear_response import LinearResponse
from bayes_influence.retraining.refits import loss_changes

SMALL = NetworkGroups(groups=3, train=60, width=2, epochs=60, decay=0.02)


@pytest.fixture
def blobs(monkeypatch):
    """Four blobs where the study looks for MNIST."""
    monkeypatch.setattr(NetworkGroups, "split", lambda self, seed: gaussian_blobs(60, 40, seed))
    monkeypatch.setattr(NetworkGroups, "fetch", lambda self: None)
    return gaussian_blobs(60, 40, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"damping": 0.0}, "damping must be positive, or the PBRF is held by nothing, got 0.0"),
        ({"decay": 0.0}, "decay must be positive, or refits have no minimum to reach, got 0.0"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        NetworkGroups(**settings)


def test_images_are_those_of_mnist_in_the_size_of_the_study(monkeypatch):
    asked, images = {}, gaussian_blobs(60, 40, 0)
    monkeypatch.setattr(
        NetworkGroups, "images", lambda self, seed, **options: asked.update(options, seed=seed) or images
    )
    assert NetworkGroups(train=70).split(3) is images
    assert asked == {"seed": 3, "train": 70, "test": 1000}


def test_conditions_differ_in_one_thing():
    polished = CONDITIONS["polished"]
    for name, condition in CONDITIONS.items():
        differing = [field for field in vars(condition) if getattr(condition, field) != getattr(polished, field)]
        assert len(differing) == (0 if name == "polished" else 1), name


def test_a_polished_network_stands_at_a_minimum_and_another_where_training_ends(blobs):
    polished, _ = fitted_network(SMALL, CONDITIONS["polished"], blobs.train, 0)
    trained, _ = fitted_network(SMALL, CONDITIONS["as-trained"], blobs.train, 0)
    assert float(polished.gradient_norms[0]) < 1e-7 < 1e-4 < float(trained.gradient_norms[0])


def test_every_size_and_kind_has_its_groups(blobs):
    drawn = groups_of(blobs.train, (0.1, 0.5), 3, 0)
    assert [(kind, fraction, len(ids)) for kind, fraction, ids in drawn[::3]] == [
        ("random", 0.1, 6),
        ("random", 0.5, 30),
        ("coherent", 0.1, 6),
        ("coherent", 0.5, 30),
    ]
    assert len(blobs.train.at(drawn[7][2]).targets.unique()) == 1


def test_each_stage_differs_from_the_next_in_one_thing_and_cold_ends_where_training_did(blobs):
    """The control from scratch is the fit; the proximal minimum lies between the fit and the minimum."""
    fits, make = fitted_network(SMALL, CONDITIONS["as-trained"], blobs.train, 0)
    every = protocols(SMALL, make, fits)
    assert list(every) == ["cold", "warm", "minimum", "proximal", "PBRF", "linear"]
    removals = Removals.of_groups([blobs.train.ids[:6]], 1, "renormalised")
    cold = every["cold"].refit(fits, blobs.train, removals)
    for name, value in fits.params.items():
        torch.testing.assert_close(cold.params[name][:, 0], value)
    bregman, linear = (every[name].refit(fits, blobs.train, removals) for name in ("PBRF", "linear"))
    assert bregman.converged.all()
    one, other = (loss_changes(refits, blobs.test)[0, 0] for refits in (bregman, linear))
    assert float(torch.corrcoef(torch.stack([one, other]))[0, 1]) > 0.9


def test_agreement_leaves_out_groups_without_a_newton_step():
    true, nan = np.array([1.0, 2.0, 3.0, 4.0]), float("nan")
    keys = {"condition": "tanh", "truth": "cold", "kind": "random", "damping": 0.0, "seed": 0}
    rows = [
        pd.DataFrame({**keys, "estimator": name, "estimated": values, "true": true})
        for name, values in {
            "a": -2 * true,
            "b": [2.0, nan, 6.0, 8.0],
            "c": [1.0, nan, nan, 2.0],
        }.items()
    ]
    found = agreement_by_stage(pd.concat(rows), KEYS).set_index("estimator")
    np.testing.assert_allclose(found["pearson"], [-1, 1, nan])
    np.testing.assert_allclose(found["predicted"], [1, 0.75, 0.5])


def test_gaps_are_distances_of_effects_over_the_size_of_cold_ones_of_every_seed():
    stages = {"cold": [1.0, -3.0], "warm": [2.0, -3.0], "PBRF": [2.0, 1.0]}
    rows = [
        {"condition": "tanh", "seed": seed, "group": group, "truth": name, "true": value + seed * (name == "warm")}
        for seed in (0, 1)
        for name, values in stages.items()
        for group, value in enumerate(values)
    ]
    gaps = stage_gaps(pd.DataFrame(rows))
    assert gaps[["condition", "seed"]].to_numpy().tolist() == [["tanh", 0], ["tanh", 1]]
    assert gaps["cold - warm"].tolist() == pytest.approx([0.5 / 2, 1.5 / 2])
    assert gaps["warm - PBRF"].tolist() == pytest.approx([2 / 2, 2 / 2])


@pytest.mark.slow
def test_the_study_tells_the_stages_apart(blobs, tmp_path, monkeypatch):
    monkeypatch.setattr(NetworkGroups, "PARTS", ("as-trained", "tanh"))
    done = STUDIES[0].run(SMALL, tmp_path, 1, False)
    effects, summary = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("effects", "summary"))
    assert set(effects["truth"]) == {"cold", "warm", "minimum", "proximal", "PBRF", "linear"}
    assert set(effects.loc[effects["condition"] == "tanh", "damping"]) == {0.0, 0.01}
    assert set(effects.loc[effects["condition"] == "as-trained", "damping"]) == {0.01}
    small = effects[(effects["fraction"] == 0.1) & (effects["truth"] == "linear") & (effects["damping"] > 0)]
    first = small[small["estimator"] == FIRST]
    assert np.corrcoef(first["estimated"], first["true"])[0, 1] > 0.9
    own = summary[(summary["truth"] == "PBRF") & (summary["estimator"] == EQUATION_17)]
    assert len(own) == 2 * (1 + 2)
    assert set(pd.read_csv(tmp_path / "fits.csv").columns) >= {"gradient_norm", "smallest_eigenvalue", "train_accuracy"}
    assert done.findings[0].startswith("as-trained: accuracy ")
    assert all(path.exists() for path in done.figures)


def test_a_cell_has_every_stage_and_no_estimate_where_the_damped_hessian_is_indefinite(blobs, monkeypatch):
    monkeypatch.setattr(
        NetworkGroups,
        "SCALES",
        {"quick": NetworkScale(repeats=1, side=2, groups=3, train=60, fractions=(0.2,), width=2, epochs=5)},
    )
    stages = {"linear": LinearResponse(0.01)}
    monkeypatch.setattr(network, "protocols", lambda *args: stages)
    study = NetworkGroups(damping=1e-9, decay=0.02)
    tables = network.measure_network(ScaledCell(study, 0, "as-trained")).tables
    assert tables["fits"]["smallest_eigenvalue"][0] < 0
    assert tables["estimates"]["estimated"].isna().all()
    assert len(tables["estimates"]) == 6 * len(ESTIMATORS)
    assert tables["truths"]["true"].notna().all()
    assert len(tables["truths"]) == 6


def test_agreement_by_size_is_said_stage_by_stage():
    rows = [
        {
            "condition": "tanh",
            "truth": truth,
            "fraction": share,
            "damping": damping,
            "estimator": FIRST,
            "pearson": value,
        }
        for damping, sign in ((0.01, 1), (0.0, -1))
        for truth, values in zip(network.SAID, ((0.1, 0.2), (0.3, 0.4), (0.5, 0.6), (0.7, 0.8)), strict=True)
        for share, value in zip((0.05, 0.6), (sign * one for one in values), strict=True)
    ]
    assert network.size_findings(pd.DataFrame(rows), 0.01) == [
        "tanh, both kinds, first order, Pearson by size (5%, 60%): cold 0.10, 0.20; minimum 0.30, 0.40; "
        "proximal 0.50, 0.60; PBRF 0.70, 0.80."
    ]
