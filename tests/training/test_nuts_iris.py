import json
from pathlib import Path

import pytest
import torch

from bayes_influence.data.tables import hold_out, load_table
from bayes_influence.models.mlp import MLP
from bayes_influence.objectives.prediction import predict
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.schemes import Variational

FIXTURE = json.loads((Path(__file__).parents[1] / "fixtures" / "nuts_iris.json").read_text())


def test_the_stored_reference_converged():
    assert FIXTURE["r_hat"] < 1.1
    assert FIXTURE["effective"] > 50
    assert FIXTURE["between_chains"] < 0.01


@pytest.mark.slow
def test_the_tilted_network_predicts_as_the_posterior_does():
    split = hold_out(load_table("iris"))
    assert split.test.ids.tolist() == FIXTURE["test_ids"]
    scheme = Variational("bnn", method="exact")
    (fit,) = fit_schemes(
        [scheme],
        lambda: MLP(4, 3, width=5, activation="tanh").double(),
        split.train,
        [0],
        Schedule(1500, 0.02),
        parameters="all",
        tolerance=None,
    )
    objective = fit.at(0)
    predicted = predict(objective, split.test.inputs, mode="sampled", n_samples=512)
    reference = torch.tensor(FIXTURE["probabilities"], dtype=torch.float64)
    assert (predicted.probabilities - reference).abs().mean() < 0.025
