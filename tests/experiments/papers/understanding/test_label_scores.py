"""Scores against closed forms and independent sums, each with its sign: the larger, the more suspicious."""

from functools import partial

import pytest
import torch

from bayes_influence.data.dataset import Dataset
from bayes_influence.experiments.papers.understanding import label_scores as scores_module
from bayes_influence.experiments.papers.understanding.label_scores import (
    CLEAN,
    ENSEMBLE,
    LOSS,
    MARGIN,
    RANDOM,
    SCORES,
    SELF,
    label_scores,
    last_layer_posterior,
    loss_variances,
    memory_changes,
)
from bayes_influence.influence.measurements import Margin
from bayes_influence.models.mlp import MLP
from bayes_influence.objectives.derivatives import dense_hessian
from bayes_influence.retraining.minimum import Minimum
from bayes_influence.retraining.refits import loss_changes
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.schemes import SCHEMES

WRONG = 7
PARTS = ("weight", "bias")


@pytest.fixture(scope="module")
def data():
    """Two classes far apart, but for one label that is wrong; and a clean set."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(70) % 2
    inputs = 3.0 * targets[:, None] - 1.5 + torch.randn(70, 2, generator=generator, dtype=torch.float64)
    whole = Dataset(inputs, targets, torch.arange(300, 370), class_names=("a", "b"))
    train, clean = whole.select(range(50)), whole.select(range(50, 70))
    labels = train.targets.clone()
    labels[WRONG] = 1 - labels[WRONG]
    return Dataset(train.inputs, labels, train.ids, class_names=("a", "b")), clean


@pytest.fixture(scope="module")
def fits(data):
    make = partial(MLP, 2, 2, width=3, activation="tanh")
    names = ("none", "weight-decay", "bnn")
    found = [fit_schemes([SCHEMES[name]], make, data[0], range(2), Schedule(150, 0.05))[0] for name in names]
    return dict(zip(names, found, strict=True))


@pytest.mark.parametrize("scheme", ["none", "weight-decay", "bnn"])
def test_every_score_but_chance_suspects_the_wrong_label(data, fits, scheme):
    train, clean = data
    scores = label_scores(fits[scheme], train, clean, seed=0)
    assert tuple(scores) == SCORES
    for name, values in scores.items():
        assert values.shape == (50,)
        if name != RANDOM:
            assert int((values > values[WRONG]).sum()) <= 2, name


def test_scores_are_what_they_say(data, fits):
    train, clean = data
    members = fits["weight-decay"]
    scores, objective = label_scores(members, train, clean, seed=0), members.at(0)
    logits = objective.outputs(objective.params, train.inputs)
    own = logits.gather(1, train.targets[:, None])[:, 0]
    other = logits.gather(1, 1 - train.targets[:, None])[:, 0]
    torch.testing.assert_close(scores[MARGIN], other - own)
    torch.testing.assert_close(Margin().at(objective, train), own - other)
    torch.testing.assert_close(scores[LOSS], torch.nn.functional.cross_entropy(logits, train.targets, reduction="none"))
    second = -Margin().at(members.at(1), train)
    torch.testing.assert_close(scores[ENSEMBLE], (scores[MARGIN] + second) / 2)
    assert float((scores[SELF] > 0).double().mean()) == 1.0
    # Removing the wrong label makes the clean examples' losses smaller, by retraining.
    effect = loss_changes(Minimum().refit(objective, train, train.ids[[WRONG]]), clean)[0, 0].mean()
    assert float(effect) < 0
    assert float(scores[CLEAN][WRONG]) > 0


def laplace_by_hand(objective, train):
    """Features with a constant, probabilities, and S^-1 of the last layer; weights of all classes before the biases."""
    hidden = torch.tanh(torch.nn.functional.linear(train.inputs, *(objective.params[f"0.{n}"] for n in PARTS))).detach()
    precision = len(train) * dense_hessian(objective.taking("last-layer"), train.batch())
    ones = torch.ones(len(train), 1, dtype=torch.float64)
    return torch.cat([hidden, ones], dim=1), torch.linalg.inv(precision)


def logits_of(theta, features):
    weight, bias = theta[:, :6].reshape(-1, 2, 3), theta[:, 6:]
    return torch.einsum("sch,nh->snc", weight, features[:, :3]) + bias[:, None]


def test_loss_variances_are_over_laplace_s_posterior_of_the_last_layer(data, fits, monkeypatch):
    monkeypatch.setattr(scores_module, "DRAWS", 40_000)
    train, _ = data
    objective = fits["weight-decay"].at(0)
    features, covariance = laplace_by_hand(objective, train)
    mean = objective.taking("last-layer").flat.theta
    noise = torch.randn(40_000, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    logits = logits_of(mean + noise @ torch.linalg.cholesky(covariance).T, features)
    every = torch.nn.functional.cross_entropy(logits.mT, train.targets.expand(40_000, -1), reduction="none")
    found = loss_variances(objective, train, torch.Generator().manual_seed(0))
    # Losses have long tails: two variances of so many draws may still differ by some per cent.
    torch.testing.assert_close(found.log(), every.var(dim=0).log(), rtol=0, atol=0.15)


def test_memory_changes_are_the_posterior_s_variance_times_the_error(data, fits):
    train, _ = data
    objective = fits["weight-decay"].at(0)
    features, covariance = laplace_by_hand(objective, train)
    errors = logits_of(objective.taking("last-layer").flat.theta[None], features)[0].softmax(1)
    errors[torch.arange(50), train.targets] -= 1
    jacobians = torch.zeros(50, 2, 8, dtype=torch.float64)
    for c in range(2):
        jacobians[:, c, 3 * c : 3 * c + 3], jacobians[:, c, 6 + c] = features[:, :3], 1.0
    changes = (jacobians @ covariance @ jacobians.mT @ errors[:, :, None])[:, :, 0]
    torch.testing.assert_close(memory_changes(objective, train), changes.norm(dim=1), rtol=1e-6, atol=1e-9)


def test_a_network_without_a_regulariser_has_the_others_prior(data, fits):
    precision = last_layer_posterior(fits["none"].at(0), data[0]).precision
    smallest = float(torch.linalg.eigvalsh(precision)[0])
    assert smallest == pytest.approx(50 * SCHEMES["weight-decay"].weight_decay, rel=1e-6)
