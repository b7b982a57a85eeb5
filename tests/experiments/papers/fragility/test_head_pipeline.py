"""What choices share of a last layer is computed once, and what they do not share is not."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from bayes_influence.data.dataset import Split
from bayes_influence.data.tables import hold_out, load_table
from bayes_influence.evaluation.agreement import agreement
from bayes_influence.experiments.papers.fragility import head_pipeline
from bayes_influence.experiments.papers.fragility.choices import AS_PUBLISHED, CORRECTED
from bayes_influence.experiments.papers.fragility.head_pipeline import ORDER, HeadPipeline
from bayes_influence.experiments.papers.fragility.heads import refitted
from bayes_influence.experiments.papers.fragility.image_settings import NETWORKS, ImageCell
from bayes_influence.models.mlp import MLP
from bayes_influence.objectives.derivatives import gradient
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay


@pytest.fixture(scope="module")
def split():
    found = hold_out(load_table("digits", torch.float32), 0.1)
    return Split(found.train.select(range(80)), found.test.select(range(20)))


@pytest.fixture
def pipeline(split):
    def made(label="MNIST LeNet", network=None):
        cell = ImageCell(NETWORKS[label], 3, "corrected", 6, 1, 8, None)
        network = MLP(64, 10, 6, activation="relu", seed=0) if network is None else network
        return HeadPipeline(Objective(network, CrossEntropy(), WeightDecay(1e-2)), split, cell, 0.5)

    return made


def test_each_kind_of_network_has_its_own_choices_first(pipeline):
    dropping = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 10))
    assert pipeline("MNIST FC-8").order == ("removal_sign", *ORDER)
    assert pipeline("MNIST LeNet").order == ("by_id", "working_rate", *ORDER)
    assert pipeline("CIFAR-10 LeNet").order == ("by_id", *ORDER)
    assert pipeline("CIFAR-10 VGG13", dropping).order == ("by_id", "evaluation_mode", *ORDER)


@pytest.mark.parametrize("label", ["MNIST FC-8", "MNIST LeNet"])
def test_with_its_choices_right_a_network_is_measured_as_corrected(pipeline, label):
    made = pipeline(label)
    row, pairs = made.measure(AS_PUBLISHED.correcting(*made.order), "median")
    right, expected = pipeline(label).measure(CORRECTED, "median")
    assert row == right
    assert row["spearman"] > 0.8
    assert pairs.equals(expected)


def test_refits_are_shared_by_choices_that_leave_them_alone_and_by_no_others(pipeline, monkeypatch):
    made = pipeline()
    ids, head = made.split.train.ids[:3], made.head(AS_PUBLISHED)
    one = refitted(head, ids, AS_PUBLISHED, 1)
    monkeypatch.setattr(made, "head", lambda choices: head)
    monkeypatch.setattr(head_pipeline, "refitted", lambda *_, **__: replace(one))
    first = made.refits(AS_PUBLISHED, ids)
    for name in AS_PUBLISHED.published:
        own = name in ("fixed_mean", "working_rate", "double_precision", "evaluation_mode")
        assert (made.refits(AS_PUBLISHED.correcting(name), ids) is not first) == own, name
    exact = AS_PUBLISHED.correcting("double_precision", "exact_refits")
    assert made.refits(exact, ids) is not made.refits(AS_PUBLISHED.correcting("double_precision"), ids)
    assert made.refits(AS_PUBLISHED, ids.flip(0)) is not first
    assert made.refits(AS_PUBLISHED, ids) is first


def test_heads_are_taken_once_for_every_place_where_they_stand(pipeline):
    made = pipeline()
    first = made.head(AS_PUBLISHED)
    assert made.head(AS_PUBLISHED.correcting("exact_refits", "biases")) is first
    double = made.head(AS_PUBLISHED.correcting("double_precision"))
    assert (first.objective.dtype, double.objective.dtype) == (torch.float32, torch.float64)
    exact = made.head(CORRECTED)
    assert gradient(exact.objective, exact.train.batch()).norm() < 1e-9
    assert gradient(double.objective, double.train.batch()).norm() > 1e-3


def test_a_control_does_nothing_to_the_correlation_and_the_sign_turns_it_over(pipeline):
    made = pipeline("MNIST FC-8")
    published, controlled, signed = (
        made.measure(AS_PUBLISHED.correcting(*names), "median")[0]["spearman"]
        for names in ((), ("control",), ("removal_sign",))
    )
    assert controlled == pytest.approx(published, abs=1e-12)
    assert signed == -published


def test_rows_say_agreement_drift_and_whether_refits_converged(pipeline):
    row, pairs = pipeline().measure(CORRECTED, "max")
    compared = agreement(pairs["estimated"].to_numpy(), pairs["true"].to_numpy())
    assert row["spearman"] == compared.spearman
    assert row["absolute_spearman"] == abs(compared.spearman)
    assert row["converged"]
    assert row["relative_drift"] < 1e-6
    assert len(pairs) == 6
    by_training, _ = pipeline().measure(replace(CORRECTED, exact_refits=False), "max")
    assert not by_training["converged"]
