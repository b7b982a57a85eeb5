from pathlib import Path

import pandas as pd
import pytest

from bayes_influence.data.files import PARTIAL, guarded, named, write_whole


@pytest.mark.parametrize(("path", "name"), [(".", "run"), ("..", "runs"), ("seed/..", "run"), ("seed", "seed")])
def test_the_folder_one_is_in_has_its_own_name(tmp_path, monkeypatch, path, name):
    (tmp_path / "runs" / "run" / "seed").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "runs" / "run")
    assert named(Path(path)).name == name
    assert named(Path("seed")) == Path("seed")


def test_writes_and_replaces_leaving_nothing_else(tmp_path):
    path = tmp_path / "results.csv"
    write_whole(path, b"old")
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert [item.name for item in tmp_path.iterdir()] == ["results.csv"]


def test_a_write_that_fails_leaves_the_old_file_and_no_partial_one(tmp_path, monkeypatch):
    path = tmp_path / "results.csv"
    write_whole(path, b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert not list(tmp_path.glob(f"*{PARTIAL}"))


def test_text_that_would_be_a_formula_is_guarded_and_numbers_are_not():
    frame = pd.DataFrame({"=a": ["=1+1", "@x", "\tx", "-1.5", "north"], "b": [-1.0, 2.0, 3.0, 4.0, 5.0]})
    found = guarded(frame)
    assert found["'=a"].tolist() == ["'=1+1", "'@x", "'\tx", "-1.5", "north"]
    assert found["b"].tolist() == frame["b"].tolist()
