import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from bayes_influence.evaluation.agreement import agreement
from bayes_influence.evaluation.ceiling import retraining_ceiling
from bayes_influence.experiments.papers.regression import fitted_regression
from bayes_influence.experiments.papers.understanding.loo_cnn import (
    BNN,
    MINIMUM,
    NETWORKS,
    PBRF,
    PROXIMAL,
    STUDIES,
    TRUTHS,
    WARM,
    LooCnn,
    smallest_eigenvalue,
)
from bayes_influence.objectives.derivatives import forward_hessian

SMALL = LooCnn(train=60, side=4, width=1, removals=6, epochs=150, refit_epochs=6, orders=2, networks=("weight-decay",))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"removals": 2}, "removals must be at least 3, got 2"),
        ({"train": 60, "removals": 61}, "only 60 images can be removed one at a time, got 61"),
        ({"decay": 0.0}, "decay must be positive, or refits have no minimum to reach, got 0.0"),
        ({"damping": -1.0}, "damping must be positive, or the PBRF is held by nothing, got -1.0"),
        ({"orders": 1}, "orders must be at least 2, got 1"),
        ({"side": 2}, "side must be at least 4 for two convolutions, got 2; take 7 or 14"),
        ({"networks": ("swag",)}, "networks must be some of weight-decay, weight-decay+swa, bnn, got swag"),
        ({"networks": ()}, "networks must be some of weight-decay, weight-decay+swa, bnn, got none"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        LooCnn(**settings)


def test_networks_can_be_added_to_a_folder():
    assert SMALL.configuration() == replace(SMALL, networks=NETWORKS).configuration()
    assert SMALL.configuration() != replace(SMALL, damping=0.1).configuration()


def test_schemes_are_those_of_the_documented_runs():
    bayesian = SMALL.scheme(BNN)
    assert (bayesian.method, bayesian.structure, bayesian.prior) == ("first-order", "diagonal", "isotropic")
    assert SMALL.scheme("weight-decay+swa").weight_decay == 0.001


def test_the_smallest_eigenvalue_is_that_of_the_whole_objective(patterns):
    split = SMALL.images(0, train=60, test=10)
    objective = fitted_regression(split.train, 0.03)
    flat = objective.flat
    hessian = forward_hessian(lambda at: flat.losses(at, split.train.batch()).mean() + flat.regulariser(at), flat.theta)
    expected = float(torch.linalg.eigvalsh(hessian)[0])
    assert smallest_eigenvalue(objective, split.train) == pytest.approx(expected, abs=1e-10)


def test_predictions_agree_with_every_truth_that_is_theirs(patterns, tmp_path):
    done = STUDIES[0].run(SMALL, tmp_path, 1, False)
    effects, repeats, networks = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("effects", "repeats", "networks"))
    assert len(effects) == len(TRUTHS) * 6
    assert len(repeats) == 2 * 6
    table = done.table.set_index("truth")
    assert tuple(table.index) == TRUTHS
    assert (table["refits"] == 6).all()
    assert (table["pearson"] > 0.95).all()
    own = effects[effects["truth"] == MINIMUM]
    assert table.loc[MINIMUM, "pearson"] == pytest.approx(agreement(own["estimated"], own["true"]).pearson)
    assert table.loc[MINIMUM, "ceiling"] == 1
    again = repeats.pivot_table(index="order", columns="example", values="true")
    assert table.loc[WARM, "ceiling"] == pytest.approx(retraining_ceiling(again).average)
    warm = effects[effects["truth"] == WARM].set_index("example")["true"]
    np.testing.assert_allclose(warm.sort_index(), again.mean().sort_index())
    (network,) = networks.to_dict("records")
    assert network["parameters"] == 39
    assert network["gradient_minimum"] <= 1e-7 < network["gradient_trained"]
    assert network["smallest_minimum"] > -1e-6
    assert network["damping"] > -network["smallest_trained"]
    assert done.findings[0].startswith("weight-decay, training goes on: Pearson 0.9")
    assert done.findings[-1].startswith("weight-decay: 39 parameters, accuracy ")
    assert all(path.exists() for path in done.figures)


@pytest.mark.slow
def test_averages_and_bayesian_twins_go_the_same_way(patterns, tmp_path):
    done = STUDIES[0].run(replace(SMALL, networks=NETWORKS[1:]), tmp_path, 1, False)
    table = done.table.set_index(["network", "truth"])
    assert set(table.index) == {(network, truth) for network in NETWORKS[1:] for truth in TRUTHS}
    assert (table["refits"] == 6).all()
    assert (table.xs(PBRF, level="truth")["pearson"] > 0.95).all()
    assert (table.loc[[(BNN, PROXIMAL), (BNN, MINIMUM)], "pearson"] > 0.95).all()
    networks = pd.read_csv(tmp_path / "networks.csv").set_index("network")
    assert networks.loc[BNN, "parameters"] == 2 * 39
    assert (networks["gradient_minimum"] <= 1e-7).all()
