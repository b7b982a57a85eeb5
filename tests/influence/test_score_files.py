"""Streaming scores to a file: the same numbers, whole files only, and a killed run that goes on."""

import pytest
import torch

from bayes_influence.influence.influence import Influence
from bayes_influence.influence.scores import InfluenceScores
from bayes_influence.influence.scoring import ScoreBlocks


@pytest.fixture
def influence(linear, train):
    return Influence(linear, train, damping=0.1, batch_size=10)


class KilledError(Exception):
    pass


@pytest.fixture
def killing(monkeypatch):
    """Lets only so many blocks be scored, and counts all that are."""
    original, scored = ScoreBlocks.__call__, []

    def limit(blocks):
        def call(self, solved, start=0):
            for block in original(self, solved, start):
                if len(scored) == blocks:
                    raise KilledError("no more blocks")
                scored.append(block.start)
                yield block

        monkeypatch.setattr(ScoreBlocks, "__call__", call)
        return scored

    return limit


def test_a_streamed_file_is_what_is_computed_in_memory(influence, test, tmp_path):
    path = tmp_path / "scores.safetensors"
    streamed, direct = influence.on_loss(test, path), influence.on_loss(test)
    for name in ("values", "train_ids", "test_ids", "error"):
        torch.testing.assert_close(getattr(streamed, name), getattr(direct, name), rtol=0, atol=0)
    assert streamed.notes() == direct.notes()
    assert [file.name for file in tmp_path.iterdir()] == ["scores.safetensors"]
    torch.testing.assert_close(InfluenceScores.load(path).values, direct.values, rtol=0, atol=0)


@pytest.mark.parametrize("scoring", ["gradients", "forward"])
def test_a_killed_run_goes_on_where_it_stopped(linear, train, test, tmp_path, killing, scoring):
    influence = Influence(linear, train, damping=0.1, batch_size=10, scoring=scoring)
    direct, path = influence.on_loss(test), tmp_path / "scores.safetensors"
    killing(2)
    with pytest.raises(KilledError, match="no more blocks"):
        influence.on_loss(test, path)
    assert not path.exists()
    scored = killing(10)
    scored.clear()
    resumed = influence.on_loss(test, path)
    assert scored == [20, 30]
    torch.testing.assert_close(resumed.values, direct.values, rtol=1e-12, atol=1e-14)
    assert (resumed.error is None) == (scoring == "forward")
    assert [file.name for file in tmp_path.iterdir()] == ["scores.safetensors"]


def test_a_run_that_did_not_get_as_far_as_a_block_starts_anew(influence, test, tmp_path, killing):
    path = tmp_path / "scores.safetensors"
    killing(0)
    with pytest.raises(KilledError, match="no more blocks"):
        influence.on_loss(test, path)
    killing(10)
    torch.testing.assert_close(influence.on_loss(test, path).values, influence.on_loss(test).values)


def test_an_unfinished_run_of_something_else_is_refused(influence, linear, train, test, tmp_path, killing):
    path = tmp_path / "scores.safetensors"
    killing(1)
    with pytest.raises(KilledError, match="no more blocks"):
        influence.on_loss(test, path)
    other = Influence(linear, train, damping=0.2, batch_size=10)
    with pytest.raises(ValueError, match="belongs to an unfinished run of another fit, test set or damping"):
        other.on_loss(test, path)


def test_a_finished_file_is_replaced(influence, linear, train, test, tmp_path):
    path = tmp_path / "scores.safetensors"
    first = influence.on_loss(test, path).values.clone()
    second = Influence(linear, train, damping=0.5).on_loss(test, path).values
    assert (first - second).abs().max() > 0.01
