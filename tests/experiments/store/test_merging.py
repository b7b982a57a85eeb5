import json
import logging

import pandas as pd
import pytest

from bayes_influence.data.locks import BusyError
from bayes_influence.data.plain_fingerprint import plain_fingerprint
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.store.merging import merge_studies
from bayes_influence.experiments.store.record import read_study

CONFIG = {"study": "of-test", "epochs": 30}


def part_of(path, *seeds, shift=0.0, config=CONFIG):
    """A folder with a cell for each seed."""
    folder = StudyFolder(path, config)
    for seed in seeds:
        folder.save_cell(f"seed={seed}", {"results": pd.DataFrame({"seed": [seed], "loss": [seed / 3 + shift]})})
    return path


def test_cells_of_all_parts_are_in_the_folder_and_the_study_finds_them(tmp_path):
    one, other = part_of(tmp_path / "one", 0, 1), part_of(tmp_path / "other", 1, 2)
    merged = merge_studies(tmp_path / "all", [one, other])
    assert (merged.taken, merged.there) == (("seed=0", "seed=1", "seed=2"), ())
    table = StudyFolder(tmp_path / "all", CONFIG).table("results")
    assert table["seed"].tolist() == [0, 1, 2]
    assert table["loss"].tolist() == [0.0, 1 / 3, 2 / 3]
    again = merge_studies(one, [tmp_path / "all"])
    assert (again.taken, again.there) == (("seed=2",), ("seed=0", "seed=1"))
    assert sorted(path.name for path in (one / "cells").iterdir()) == [f"seed={seed}.safetensors" for seed in range(3)]


def test_parts_may_be_where_nothing_can_be_written(tmp_path):
    part = part_of(tmp_path / "part", 0)
    part.chmod(0o500)
    (part / "cells").chmod(0o500)
    before = {path: path.stat().st_mtime_ns for path in part.rglob("*")}
    assert merge_studies(tmp_path / "all", [part]).taken == ("seed=0",)
    assert {path: path.stat().st_mtime_ns for path in part.rglob("*")} == before


def damaged(path):
    cell = part_of(path, 3) / "cells" / "seed=3.safetensors"
    cell.write_bytes(cell.read_bytes()[:-4])
    return path


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda path: part_of(path, 3, config=CONFIG | {"epochs": 5}),
            ValueError,
            "good and .*bad are of .*: epochs is 30 and 5",
        ),
        (lambda path: part_of(path, 0, shift=1e-15), ValueError, "the cell seed=0 of .*bad has another result"),
        (damaged, ValueError, r"seed=3.safetensors is damaged .*copy it again, or delete it"),
        (lambda path: path, FileNotFoundError, "bad holds no study: there is no config.json in it"),
    ],
)
@pytest.mark.parametrize("begun", [True, False])
def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path, make, error, message, begun):
    good, bad, into = part_of(tmp_path / "good", 0, 1), make(tmp_path / "bad"), tmp_path / "all"
    if begun:
        part_of(into, 0)
    with pytest.raises(error, match=message):
        merge_studies(into, [good, bad])
    assert [path.name for path in into.rglob("*.safetensors")] == ["seed=0.safetensors"] * begun
    assert into.exists() == begun


def test_a_merge_takes_parts_and_a_folder_at_rest(tmp_path):
    with pytest.raises(ValueError, match="no folder to take cells from was given"):
        merge_studies(tmp_path / "all", [])
    part, into = part_of(tmp_path / "part", 0), part_of(tmp_path / "all", 1, config=CONFIG | {"epochs": 5})
    with pytest.raises(ValueError, match=r"epochs is 5 and 30\. Merge folders of one study"):
        merge_studies(into, [part])
    busy = StudyFolder(tmp_path / "busy", CONFIG)
    with busy.writing(), pytest.raises(BusyError, match="busy"):
        merge_studies(busy.path, [part])
    assert busy.keys() == []


def of_torch(version, part):
    """The folder, as if it had been made with another torch."""
    record = json.loads((part / "config.json").read_text())
    plain = {"config": record["config"], "versions": record["versions"] | {"torch": version}}
    (part / "config.json").write_text(json.dumps(plain | {"sha256": plain_fingerprint(**plain)}))
    return part


def test_parts_of_other_versions_are_taken_and_said(tmp_path, caplog):
    one, other = part_of(tmp_path / "one", 0), of_torch("2.0.0", part_of(tmp_path / "other", 1))
    with caplog.at_level(logging.WARNING):
        assert len(merge_studies(tmp_path / "all", [one, other]).taken) == 2
    assert "other with 2.0.0" in caplog.text


def test_a_new_folder_has_the_versions_of_the_first_part_and_one_that_is_there_its_own(tmp_path, caplog):
    parts = [of_torch(f"2.0.{seed}", part_of(tmp_path / str(seed), seed)) for seed in range(2)]
    with caplog.at_level(logging.WARNING):
        merge_studies(tmp_path / "all", parts[:1])
        assert caplog.messages == []
        merge_studies(tmp_path / "all", parts[1:])
    assert caplog.messages == [f"{tmp_path / 'all'} was started with torch 2.0.0, and continues with 2.0.1"]
    assert read_study(tmp_path / "all")["versions"] == read_study(parts[0])["versions"]


def test_a_folder_of_studies_is_no_part(tmp_path):
    whole = part_of(tmp_path / "whole")
    merge_studies(tmp_path / "all", [whole])  # nothing is finished, and nothing is lost
    part_of(whole / "iris", 0)
    part_of(whole / "curves", 0)
    with pytest.raises(
        ValueError, match=r"whole holds no cells of its own: the studies in it are curves, iris\. Merge"
    ):
        merge_studies(tmp_path / "all", [whole])
