from dataclasses import replace

import numpy as np
import pytest
import torch

from bayes_influence.curvature.damping import DiagonalDamping, FisherDamping, IdentityDamping
from bayes_influence.data.synthetic import logistic_classes
from bayes_influence.evaluation.lds import lds
from bayes_influence.experiments.audit.ground_truth import subsets
from bayes_influence.experiments.audit.ground_truth.subsets import protocol_config, random_subsets, retrain_on_subsets
from bayes_influence.influence.influence import Influence
from bayes_influence.models.mlp import MLP
from bayes_influence.retraining.from_scratch import FromScratch
from bayes_influence.retraining.minimum import Minimum
from bayes_influence.retraining.proximal import Proximal, ProximalBregman
from bayes_influence.retraining.warm import Warm
from bayes_influence.training.deterministic import Deterministic
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.schemes import SCHEMES
from tests.references import softmax_regression_minimum

DECAY = 0.05


def softmax_regression():
    return MLP(3, 3, depth=0)


@pytest.fixture(scope="module")
def problem():
    whole = logistic_classes(46, n_features=3, n_classes=3, seed=1).dataset
    train, test = whole.select(range(40)), whole.select(range(40, 46))
    scheme = Deterministic("l2", weight_decay=DECAY)
    (fits,) = fit_schemes([scheme], softmax_regression, train, [0, 1], Schedule(50, 0.05))
    return fits, train, test


def test_subsets_have_one_size_and_do_not_depend_on_their_number():
    masks = random_subsets(41, 8, fraction=0.5, seed=3)
    assert masks.sum(axis=1).tolist() == [20] * 8
    assert np.array_equal(random_subsets(41, 30, fraction=0.5, seed=3)[:8], masks)
    assert not np.array_equal(random_subsets(41, 8, fraction=0.5, seed=4), masks)
    assert len({mask.tobytes() for mask in masks}) == 8


def test_losses_are_those_of_networks_trained_on_the_subset_alone(problem, tmp_path):
    fits, train, test = problem
    found = retrain_on_subsets(fits, train, test, Minimum(), tmp_path / "lds", n_subsets=4, progress=False)
    assert found.unconverged == 0
    assert found.losses.shape == (2, 4, 6)
    for index, mask in enumerate(found.masks):
        weight, bias = softmax_regression_minimum(
            train.inputs[mask], train.targets[mask], np.ones(mask.sum()), DECAY, 3
        )
        logits = torch.from_numpy(test.inputs.numpy() @ weight.T + bias)
        expected = torch.nn.functional.cross_entropy(logits, test.targets, reduction="none").numpy()
        for seed in range(2):
            np.testing.assert_allclose(found.losses[seed, index], expected, atol=1e-8)


def test_influence_of_a_convex_problem_has_a_high_score_and_noise_has_none(problem, tmp_path):
    fits, train, test = problem
    found = retrain_on_subsets(fits, train, test, Minimum(), tmp_path / "lds", n_subsets=60, progress=False)
    removal = Influence(fits.at(0), train, damping=1e-9).on_loss(test).removal.numpy()
    score = lds(found.masks, -removal, found.losses).score
    assert score.estimate > 0.8
    assert score.low > 0.6
    assert lds(found.masks, removal, found.losses).score.estimate == pytest.approx(-score.estimate)
    noise = np.random.default_rng(0).normal(size=removal.shape)
    assert abs(lds(found.masks, noise, found.losses).score.estimate) < 0.3


def test_losses_are_computed_once_and_more_subsets_can_be_added(problem, tmp_path, monkeypatch):
    fits, train, test = problem
    first = retrain_on_subsets(fits, train, test, Minimum(), tmp_path / "lds", n_subsets=10, progress=False)
    trained = []

    def count(job):
        trained.append(len(job.masks))
        return original(job)

    original = subsets._retrain
    monkeypatch.setattr(subsets, "_retrain", count)
    again = retrain_on_subsets(fits, train, test, Minimum(), tmp_path / "lds", n_subsets=10, progress=False)
    assert trained == []
    assert np.array_equal(again.losses, first.losses)
    more = retrain_on_subsets(fits, train, test, Minimum(), tmp_path / "lds", n_subsets=20, progress=False)
    assert trained == [10]
    assert np.array_equal(more.losses[:, :10], first.losses)


def test_another_protocol_or_network_is_refused_the_same_folder(problem, tmp_path):
    fits, train, test = problem
    retrain_on_subsets(fits, train, test, Minimum(), tmp_path / "lds", n_subsets=3, progress=False)
    with pytest.raises(ValueError, match=r"protocol\.tolerance is 1e-10 there and 0\.001 here"):
        retrain_on_subsets(fits, train, test, Minimum(1e-3), tmp_path / "lds", n_subsets=3, progress=False)
    with pytest.raises(ValueError, match="fingerprint is"):
        retrain_on_subsets(fits, train, test.select([0]), Minimum(), tmp_path / "lds", n_subsets=3, progress=False)


def test_retrainings_that_do_not_converge_are_counted(problem, tmp_path):
    fits, train, test = problem
    protocol = Minimum(1e-300)
    found = retrain_on_subsets(fits, train, test, protocol, tmp_path / "lds", n_subsets=3, progress=False)
    assert found.unconverged == 6


def test_protocols_are_described_by_name_and_settings():
    described = protocol_config(FromScratch(SCHEMES["none"], softmax_regression, Schedule(7)))
    assert described["name"] == "cold"
    assert described["schedule"]["epochs"] == 7
    assert (
        described["make_network"]
        == protocol_config(FromScratch(SCHEMES["none"], lambda: MLP(3, 3, depth=0), Schedule(7)))["make_network"]
    )
    assert (
        described["make_network"]
        != protocol_config(FromScratch(SCHEMES["none"], lambda: MLP(3, 3, width=2), Schedule(7)))["make_network"]
    )
    assert protocol_config(ProximalBregman(0.1)) == {"name": "pbrf", "damping": 0.1, "tolerance": 1e-8}
    fisher, identity = (protocol_config(Proximal(kind(0.1)))["damping"] for kind in (FisherDamping, IdentityDamping))
    assert (fisher, identity) == ({"kind": "FisherDamping", "delta": 0.1}, {"kind": "IdentityDamping", "delta": 0.1})


def test_what_is_watched_and_a_metric_count_by_their_numbers():
    watched = logistic_classes(5, n_features=3, n_classes=3, seed=1).dataset
    other = replace(watched, targets=watched.targets.flip(0))
    first, second, third = (protocol_config(Warm(Schedule(3), watch=data)) for data in (watched, watched, other))
    assert first == second
    assert first != third
    metrics = [protocol_config(Proximal(DiagonalDamping(0.1, torch.full((2,), size)))) for size in (1.0, 2.0)]
    assert metrics[0]["damping"]["delta"] == 0.1
    assert metrics[0] != metrics[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 2}, "a correlation over subsets needs at least 3 of them, got 2"),
        ({"count": 5, "fraction": 0.0}, "some but not all of 40 examples, got a fraction of 0.0"),
        ({"count": 5, "fraction": 1.0}, "some but not all of 40 examples"),
    ],
)
def test_subsets_that_cannot_work_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        random_subsets(40, **arguments)
