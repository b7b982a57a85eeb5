"""A score file that is being written: what is on disk is found again, and nothing that is not what was written."""

import json
import os

import pytest
import torch

from bayes_influence.influence.scores import InfluenceScores
from bayes_influence.influence.unfinished import SolvedTests, UnfinishedScores

NOTES = {"measurement": "loss", "solver": "cholesky"}
SOLVED = SolvedTests(torch.arange(6.0).reshape(3, 2), torch.tensor([0.5, 0.25]), NOTES)
VALUES = torch.arange(60.0, dtype=torch.float64).reshape(2, 30) / 7
NORMS = VALUES[0].sqrt()
LAYOUT = {
    "values": (torch.float64, (2, 30)),
    "train_ids": (torch.int64, (30,)),
    "test_ids": (torch.int64, (2,)),
    "residual_norms": (torch.float32, (2,)),
    "gradient_norms": (torch.float64, (30,)),
}


@pytest.fixture
def target(tmp_path):
    return tmp_path / "scores.safetensors"


def opened(target, fingerprint="mark", layout=LAYOUT):
    kept = UnfinishedScores(target, fingerprint, "it is of something else")
    if kept.read_solved() is None:
        kept.write_solved(SOLVED)
    return kept, kept.open(layout, NOTES)


def fill(tensors, start, stop):
    tensors["values"][:, start:stop] = VALUES[:, start:stop]
    if "gradient_norms" in tensors:
        tensors["gradient_norms"][start:stop] = NORMS[start:stop]


def begin(target, layout=LAYOUT):
    """A run of three blocks of ten that is killed after two, when the third is half written."""
    kept, tensors = opened(target, layout=layout)
    assert kept.done == 0
    for start in (0, 10):
        fill(tensors, start, start + 10)
        kept.mark(start + 10)
    fill(tensors, 20, 25)
    kept._map.flush()
    return kept


def file(target, ending):
    return target.with_name(f"{target.name}.{ending}")


def test_a_run_that_is_finished_is_a_score_file_and_nothing_else(target):
    begin(target)
    kept, tensors = opened(target)
    assert kept.done == 20
    assert torch.equal(tensors["values"][:, :20], VALUES[:, :20])
    fill(tensors, 20, 30)
    kept.mark(30)
    tensors["train_ids"].copy_(torch.arange(30))
    tensors["test_ids"].copy_(torch.tensor([7, 9]))
    tensors["residual_norms"].copy_(SOLVED.residual_norms)
    kept.finish()
    assert [item.name for item in target.parent.iterdir()] == ["scores.safetensors"]
    scores = InfluenceScores.load(target)
    assert torch.equal(scores.values, VALUES)
    assert torch.equal(scores.gradient_norms, NORMS)
    assert scores.residual_norms.tolist() == [0.5, 0.25]
    assert (scores.test_ids.tolist(), scores.measurement, scores.solver) == ([7, 9], "loss", "cholesky")


@pytest.mark.parametrize("gone", ["solved", "done"])
def test_a_run_is_finished_whatever_somebody_has_cleared_away(target, gone):
    begin(target)
    kept, tensors = opened(target)
    fill(tensors, 20, 30)
    kept.mark(30)
    file(target, gone).unlink()
    kept.finish()
    assert [item.name for item in target.parent.iterdir()] == ["scores.safetensors"]


def test_the_solved_systems_come_back(target):
    begin(target)
    solved = UnfinishedScores(target, "mark", "").read_solved()
    assert torch.equal(solved.value, SOLVED.value)
    assert torch.equal(solved.residual_norms, SOLVED.residual_norms)
    assert solved.notes == NOTES


def test_an_unfinished_run_of_something_else_is_in_the_way(target):
    begin(target)
    with pytest.raises(ValueError, match=r"in the way, .*\.solved: it is of something else; delete that"):
        opened(target, "other")


def test_the_blocks_of_another_run_do_not_count_whatever_is_left_of_it(target):
    begin(target)
    lines = file(target, "done").read_bytes()
    file(target, "solved").unlink()
    kept, _ = opened(target, "other")
    assert kept.done == 0
    file(target, "done").write_bytes(lines)
    assert opened(target, "other")[0].done == 0


def flip(path, place, bit=4):
    content = bytearray(path.read_bytes())
    content[place] ^= bit
    path.write_bytes(content)


LAST_ROW = -8 * (30 + 30 + 2 + 30) - 4 * 2
"""Where the scores of the last test begin in the file: before both kinds of ids and of norms."""


@pytest.mark.parametrize(
    ("name", "damage", "done"),
    [
        ("unfinished", lambda path: flip(path, LAST_ROW + 8 * 25), 20),  # not done yet
        ("unfinished", lambda path: flip(path, LAST_ROW + 8 * 15), 10),
        ("unfinished", lambda path: flip(path, LAST_ROW + 8 * 10), 10),
        ("unfinished", lambda path: flip(path, LAST_ROW + 8 * 9), 0),
        ("unfinished", lambda path: flip(path, -8 * (30 - 19)), 10),
        ("unfinished", lambda path: flip(path, 40), 20),  # the header, which is written anew
        ("unfinished", lambda path: path.write_bytes(path.read_bytes()[:-1]), 0),
        ("unfinished", lambda path: path.write_bytes(path.read_bytes() + b"0"), 0),
        ("unfinished", lambda path: path.unlink(), 0),
        ("done", lambda path: flip(path, 1), 0),
        ("done", lambda path: flip(path, -4), 10),
        ("done", lambda path: path.write_bytes(path.read_bytes()[:-9]), 10),
        ("done", lambda path: path.write_bytes(b"[[], {}]\n\xff"), 0),
        ("done", lambda path: path.write_bytes(b""), 0),
        ("done", lambda path: path.unlink(), 0),
        ("solved", lambda path: flip(path, -1), 0),
        ("solved", lambda path: path.write_bytes(path.read_bytes()[:-3]), 0),
        ("solved", lambda path: path.write_bytes(b""), 0),
        ("solved", lambda path: path.unlink(), 0),
    ],
)
def test_what_is_not_what_was_written_counts_as_not_done(target, name, damage, done):
    begin(target)
    damage(file(target, name))
    kept, tensors = opened(target)
    assert kept.done == done
    assert torch.equal(tensors["values"][:, :done], VALUES[:, :done])
    for start in range(done, 30, 10):
        fill(tensors, start, start + 10)
        kept.mark(start + 10)
    again, tensors = opened(target)
    assert again.done == 30
    assert torch.equal(tensors["values"], VALUES)
    again.finish()
    assert torch.equal(InfluenceScores.load(target).values, VALUES)


def test_every_block_has_a_line_and_bad_lines_are_dropped(target):
    begin(target)
    lines = file(target, "done").read_text().splitlines()
    assert [json.loads(line)[0] for line in lines] == [10, 20]
    file(target, "done").write_text("\n".join([*lines, "half a li"]))
    kept, tensors = opened(target)
    fill(tensors, 20, 30)
    kept.mark(30)
    assert [json.loads(line)[0] for line in file(target, "done").read_text().splitlines()] == [10, 20, 30]


def test_without_norms_the_scores_alone_count(target):
    layout = {name: spec for name, spec in LAYOUT.items() if name != "gradient_norms"}
    begin(target, layout)
    assert opened(target, layout=layout)[0].done == 20


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system allots no room beforehand")
def test_a_full_disk_is_an_error_before_anything_is_lost(target, monkeypatch):
    begin(target)
    asked = []

    def full(descriptor, start, length):
        asked.append((start, length))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        opened(target)
    monkeypatch.undo()
    assert asked == [(0, file(target, "unfinished").stat().st_size)]
    assert opened(target)[0].done == 20
