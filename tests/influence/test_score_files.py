"""Streaming scores to a file: the same numbers, whole files only, and a killed run that goes on."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import pytest
import torch

from bayes_influence.curvature.solvers.conjugate_gradients import ConjugateGradients
from bayes_influence.curvature.solvers.lissa import LiSSA
from bayes_influence.data.locks import BusyError
from bayes_influence.influence.influence import Influence
from bayes_influence.influence.score_files import ScoreRequest
from bayes_influence.influence.scores import InfluenceScores
from bayes_influence.influence.scoring import ScoreBlocks
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.regularisers import WeightDecay


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


def test_a_streamed_file_is_what_is_computed_in_memory(deep, train, test, tmp_path):
    path = tmp_path / "scores.safetensors"
    somewhere = deep.at({name: 1.1 * value for name, value in deep.params.items()})
    influence = Influence(somewhere, train, damping=0.1, batch_size=10, solver=ConjugateGradients(tolerance=0.05))
    streamed, direct = influence.on_loss(test, path), influence.on_loss(test)
    for name in ("values", "train_ids", "test_ids", "error", "residual_norms", "gradient_norms", "drift"):
        torch.testing.assert_close(getattr(streamed, name), getattr(direct, name), rtol=0, atol=0)
    assert streamed.residual_norms.min() > 0
    assert streamed.drift.abs().min() > 0
    assert streamed.notes() == direct.notes()
    assert {file.name for file in tmp_path.iterdir()} == {"scores.safetensors", ".scores.safetensors.lock"}
    torch.testing.assert_close(InfluenceScores.load(path).values, direct.values, rtol=0, atol=0)


def test_residual_norms_are_what_is_left_of_the_systems_that_were_solved(deep, train, test):
    influence = Influence(deep, train, damping=0.1, solver=ConjugateGradients(tolerance=0.05))
    rows = influence.problem.gradients(*influence.problem.taken(test))
    rows = torch.linspace(1, 5, len(rows)).unsqueeze(1) * rows
    solved = ScoreRequest(influence.response, influence._blocks, rows, test.ids, "loss").solve()
    left = influence.response.operator @ solved.value - rows.T
    assert left.norm(dim=0).min() > 1e-6
    torch.testing.assert_close(solved.residual_norms, left.norm(dim=0))


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
    assert {file.name for file in tmp_path.iterdir()} == {"scores.safetensors", ".scores.safetensors.lock"}


def test_a_run_that_did_not_get_as_far_as_a_block_starts_anew(influence, test, tmp_path, killing):
    path = tmp_path / "scores.safetensors"
    killing(0)
    with pytest.raises(KilledError, match="no more blocks"):
        influence.on_loss(test, path)
    killing(10)
    torch.testing.assert_close(influence.on_loss(test, path).values, influence.on_loss(test).values)


OTHERS = {
    "targets": lambda objective, train: Influence(objective, changed(train, targets=(train.targets + 1) % 3), **HOW),
    "inputs": lambda objective, train: Influence(objective, changed(train, inputs=2 * train.inputs), **HOW),
    "weights": lambda objective, train: Influence(objective, changed(train, weights=2 - train.inputs[:, 0] * 0), **HOW),
    "ids": lambda objective, train: Influence(objective, changed(train, ids=train.ids + 1000), **HOW),
    "regulariser": lambda objective, train: Influence(replace(objective, regulariser=WeightDecay(0.03)), train, **HOW),
    "its weight": lambda objective, train: Influence(replace(objective, regulariser_weight=2.0), train, **HOW),
    "likelihood": lambda objective, train: Influence(replace(objective, likelihood=doubled), train, **HOW),
    "params": lambda objective, train: Influence(moved(objective), train, **HOW),
    "parameters": lambda objective, train: Influence(objective, train, **HOW, parameters=["0.weight"]),
    "solver": lambda objective, train: Influence(objective, train, **HOW, solver=LiSSA(steps=10)),
    "steps": lambda objective, train: Influence(objective, train, **HOW, solver=LiSSA(steps=11)),
    "curvature": lambda objective, train: Influence(objective, train, **HOW, curvature="empirical-fisher"),
    "damping": lambda objective, train: Influence(objective, train, **{**HOW, "damping": 0.2}),
    "scoring": lambda objective, train: Influence(objective, train, **HOW, scoring="forward"),
    "dtype": lambda objective, train: Influence(objective, train, **HOW, dtype=torch.float32),
}
"""Requests that differ from one another, and from the plain one, in one thing each."""

HOW = {"damping": 0.1, "batch_size": 10}


def changed(data, **parts):
    return replace(data, **parts)


def moved(objective):
    return objective.at({name: value + 1e-9 for name, value in objective.params.items()})


def doubled(outputs, targets):
    return 2 * CrossEntropy()(outputs, targets)


@pytest.mark.parametrize("other", OTHERS)
def test_an_unfinished_run_of_something_else_is_refused(influence, linear, train, test, tmp_path, killing, other):
    path = tmp_path / "scores.safetensors"
    killing(1)
    with pytest.raises(KilledError, match="no more blocks"):
        influence.on_loss(test, path)
    with pytest.raises(ValueError, match=r"is in the way, .*solved: it is of another fit, training or test set, .* or"):
        OTHERS[other](linear, train).on_loss(test, path)


def test_requests_are_told_apart_by_every_part_and_by_nothing_else(influence, linear, train, test, monkeypatch):
    def mark(influence, gradients=test):
        rows = influence.problem.gradients(*influence.problem.taken(gradients))
        request = ScoreRequest(influence.response, influence._blocks, rows, gradients.ids, "loss")
        return request._identity()[0]

    marks = [
        mark(influence),
        mark(influence, test.select([0])),
        *(mark(make(linear, train)) for make in OTHERS.values()),
    ]
    assert len(set(marks)) == len(OTHERS) + 2
    named = replace(train, name="renamed", feature_names=("a", "b", "c"))
    assert mark(Influence(replace(linear, likelihood=CrossEntropy()), named, damping=0.1, batch_size=7)) == marks[0]
    monkeypatch.setattr("bayes_influence.influence.score_files.environment", lambda: {"torch": "1.0"})
    assert mark(influence) != marks[0]


def test_what_cannot_be_told_apart_is_streamed_but_not_resumed(linear, train, test, tmp_path, killing):
    generator = torch.Generator()

    def likelihood(outputs, targets):
        assert generator is not None
        return CrossEntropy()(outputs, targets)

    influence = Influence(replace(linear, likelihood=likelihood), train, damping=0.1, batch_size=10)
    path = tmp_path / "scores.safetensors"
    torch.testing.assert_close(influence.on_loss(test, path).values, influence.on_loss(test).values)
    killing(1)
    with pytest.raises(KilledError, match="no more blocks"):
        influence.on_loss(test, path)
    with pytest.raises(
        ValueError, match=r"cannot be told whether .* objective.*likelihood.*, its generator is a torch"
    ):
        influence.on_loss(test, path)


def test_a_damaged_block_is_scored_again_with_those_after_it(influence, test, tmp_path, killing):
    path, direct = tmp_path / "scores.safetensors", influence.on_loss(test)
    killing(3)
    with pytest.raises(KilledError, match="no more blocks"):
        influence.on_loss(test, path)
    unfinished = tmp_path / "scores.safetensors.unfinished"
    content = bytearray(unfinished.read_bytes())
    content[-8 * (40 + 40 + 5 + 5 + 5 + 40) + 8 * 15] ^= 4  # the score of the last test and the 15th example
    unfinished.write_bytes(content)
    scored = killing(10)
    scored.clear()
    resumed = influence.on_loss(test, path)
    assert scored == [10, 20, 30]
    torch.testing.assert_close(resumed.values, direct.values, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(resumed.gradient_norms, direct.gradient_norms, rtol=1e-12, atol=1e-14)


def test_two_do_not_stream_to_one_path(influence, test, tmp_path, monkeypatch):
    path, original, refused = tmp_path / "scores.safetensors", ScoreBlocks.__call__, []

    def meanwhile(self, solved, start=0):
        with pytest.raises(BusyError, match=r"another process is writing scores to .*scores\.safetensors; wait until"):
            influence.on_loss(test, path)
        refused.append(start)
        yield from original(self, solved, start)

    monkeypatch.setattr(ScoreBlocks, "__call__", meanwhile)
    streamed = influence.on_loss(test, path)
    monkeypatch.undo()
    assert refused == [0]
    torch.testing.assert_close(streamed.values, influence.on_loss(test).values)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system allots no room beforehand")
def test_a_full_disk_is_an_error_before_any_scoring(influence, test, tmp_path, monkeypatch, killing):
    path = tmp_path / "scores.safetensors"
    before = influence.on_loss(test, path).values.clone()

    def full(descriptor, start, length):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    scored = killing(0)
    with pytest.raises(OSError, match="No space left"):
        influence.on_loss(test, path)
    assert scored == []
    assert torch.equal(InfluenceScores.load(path).values, before)
    monkeypatch.undo()
    assert torch.equal(influence.on_loss(test, path).values, before)


STREAMING = """
    import sys, time
    import torch
    import bayes_influence as bi
    from bayes_influence.influence.scoring import ScoreBlocks

    original = ScoreBlocks.__call__

    def slowly(self, solved, start=0):
        for block in original(self, solved, start):
            time.sleep(0.0 if block.start < 20 or len(sys.argv) > 2 else 60.0)
            yield block

    ScoreBlocks.__call__ = slowly
    g = torch.Generator().manual_seed(0)
    data = bi.Dataset(torch.randn(45, 3, generator=g), torch.randint(0, 3, (45,), generator=g), torch.arange(45))
    torch.manual_seed(0)
    objective = bi.Objective(torch.nn.Linear(3, 3), bi.CrossEntropy(), bi.WeightDecay(0.1))
    influence = bi.Influence(objective, data.select(range(40)), damping=0.1, batch_size=10)
    streamed = influence.on_loss(data.select(range(40, 45)), sys.argv[1])
    assert torch.equal(streamed.values, influence.on_loss(data.select(range(40, 45))).values)
"""


@pytest.mark.slow
def test_a_killed_process_is_resumed_by_another(tmp_path):
    path = tmp_path / "scores.safetensors"
    blocks = tmp_path / "scores.safetensors.done"
    command = [sys.executable, "-c", textwrap.dedent(STREAMING), str(path)]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while not (blocks.exists() and blocks.read_bytes().count(b"\n") == 2):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    assert process.wait(timeout=30) == -signal.SIGKILL
    assert not path.exists()
    subprocess.run([*command, "resumed"], env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, timeout=120)
    assert InfluenceScores.load(path).values.shape == (5, 40)


def test_a_finished_file_is_replaced(influence, linear, train, test, tmp_path):
    path = tmp_path / "scores.safetensors"
    first = influence.on_loss(test, path).values.clone()
    second = Influence(linear, train, damping=0.5).on_loss(test, path).values
    assert (first - second).abs().max() > 0.01
