from dataclasses import replace

import pytest
import torch

from bayes_influence.data.synthetic import logistic_classes
from bayes_influence.experiments.audit.ground_truth.stored_refits import stored_refits
from bayes_influence.models.mlp import MLP
from bayes_influence.objectives.likelihoods import GaussianNoise
from bayes_influence.objectives.regularisers import WeightDecay
from bayes_influence.retraining.minimum import Minimum
from bayes_influence.retraining.refits import losses_after
from bayes_influence.retraining.warm import Warm
from bayes_influence.training.deterministic import Deterministic
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.schedules import Schedule


@pytest.fixture(scope="module")
def train():
    return logistic_classes(30, n_features=3, n_classes=3, seed=1).dataset


@pytest.fixture(scope="module")
def fits(train):
    scheme = Deterministic("l2", weight_decay=0.05)
    (found,) = fit_schemes([scheme], lambda: MLP(3, 3, width=3, activation="tanh"), train, [0, 1], Schedule(60, 0.05))
    return found


@pytest.fixture
def removed():
    return torch.tensor([[3, 17, 21], [0, 8, 29]])


@pytest.mark.parametrize("watched", [False, True])
def test_stored_refits_are_the_protocol_s(fits, train, removed, watched, tmp_path):
    protocol = Warm(Schedule(5), watch=train) if watched else Minimum()
    stored = stored_refits(protocol, fits, train, removed, tmp_path / "refits", per_cell=2, progress=False)
    whole = protocol.refit(fits, train, removed)
    for name, value in whole.params.items():
        torch.testing.assert_close(stored.params[name], value, rtol=0, atol=1e-9)
    torch.testing.assert_close(losses_after(stored, train), losses_after(whole, train))
    assert torch.equal(stored.converged, whole.converged)
    if watched:
        torch.testing.assert_close(stored.watched, whole.watched)


def test_a_killed_retraining_goes_on_behind_what_is_stored(fits, train, removed, tmp_path, monkeypatch):
    refit, asked = Minimum.refit, []

    def killed_at_the_second(self, *arguments, **options):
        asked.append(len(asked))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return refit(self, *arguments, **options)

    monkeypatch.setattr(Minimum, "refit", killed_at_the_second)
    for _ in range(2):
        try:
            found = stored_refits(Minimum(), fits, train, removed, tmp_path / "refits", per_cell=1, progress=False)
        except KeyboardInterrupt as error:
            assert "1 of 3 cells are stored" in str(error)  # noqa: PT017
    assert len(asked) == 4
    assert found.converged.shape == (2, 4)


def test_what_does_not_fit_is_refused(fits, train, removed, tmp_path):
    stored_refits(Minimum(), fits, train, removed, tmp_path / "refits", progress=False)
    with pytest.raises(ValueError, match=r"another configuration: groups is .* there and .* here"):
        stored_refits(Minimum(), fits, train, removed.flip(0), tmp_path / "refits", progress=False)
    with pytest.raises(ValueError, match="a cell holds at least 1 removal, got per_cell=0"):
        stored_refits(Minimum(), fits, train, removed, tmp_path / "other", per_cell=0)


@pytest.mark.parametrize(
    "change",
    [
        lambda fits, train: (fits, replace(train, targets=train.targets.roll(1))),
        lambda fits, train: (fits, replace(train, weights=torch.full((30,), 2.0, dtype=torch.float64))),
        lambda fits, train: (replace(fits, objective=replace(fits.objective, regulariser=WeightDecay(0.06))), train),
        lambda fits, train: (replace(fits, objective=replace(fits.objective, regulariser_weight=2.0)), train),
        lambda fits, train: (replace(fits, objective=replace(fits.objective, likelihood=GaussianNoise())), train),
        lambda fits, train: (replace(fits, objective=replace(fits.objective, parameters="all")), train),
        lambda fits, train: (replace(fits, params={name: value + 1 for name, value in fits.params.items()}), train),
    ],
    ids=["targets", "weights", "regulariser", "its weight", "likelihood", "parameters", "params"],
)
def test_refits_of_anything_else_are_not_taken(fits, train, removed, tmp_path, change):
    stored_refits(Minimum(), fits, train, removed, tmp_path / "refits", progress=False)
    with pytest.raises(ValueError, match="another configuration: fingerprint is"):
        stored_refits(Minimum(), *change(fits, train), removed, tmp_path / "refits", progress=False)


def test_how_long_a_training_took_does_not_count(fits, train, removed, tmp_path):
    first = stored_refits(Minimum(), fits, train, removed, tmp_path / "refits", progress=False)
    again = stored_refits(Minimum(), replace(fits, seconds=1e9), train, removed, tmp_path / "refits", progress=False)
    assert torch.equal(first.gradient_norms, again.gradient_norms)


@pytest.mark.parametrize("damage", [lambda content: content[:-9], lambda content: content[:-9] + b"x" + content[-8:]])
def test_damaged_refits_are_made_again_and_the_others_kept(fits, train, removed, tmp_path, monkeypatch, damage):
    whole = stored_refits(Minimum(), fits, train, removed, tmp_path / "refits", per_cell=1, progress=False)
    path = tmp_path / "refits" / "cells" / "first=1,count=1.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    refit, asked = Minimum.refit, []

    def counted(self, *arguments, **options):
        asked.append(arguments[2].groups)
        return refit(self, *arguments, **options)

    monkeypatch.setattr(Minimum, "refit", counted)
    again = stored_refits(Minimum(), fits, train, removed, tmp_path / "refits", per_cell=1, progress=False)
    assert [[group.tolist() for group in groups] for groups in asked[0]] == [[[17]], [[8]]]
    assert len(asked) == 1
    for name, value in whole.params.items():
        assert torch.equal(again.params[name], value)
