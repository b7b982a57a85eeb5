import csv
import json
import logging
import os
import pickle
import subprocess
import sys
import textwrap
import time
from contextlib import suppress

import numpy as np
import pandas as pd
import pytest

from bayes_influence.data.fingerprint import fingerprint
from bayes_influence.data.locks import BusyError
from bayes_influence.data.sealed import DamagedFileError
from bayes_influence.experiments.store import folder as folder_module
from bayes_influence.experiments.store.folder import StudyFolder

CONFIG = {"dataset": "iris", "schemes": ["none", "swa"], "training": {"epochs": 3000}}


def frame(seed):
    return pd.DataFrame({"seed": [seed, seed], "loss": [seed / 3, np.nan]})


@pytest.fixture
def folder(tmp_path):
    return StudyFolder(tmp_path / "study", CONFIG)


def test_a_cell_is_stored_found_and_loaded(folder):
    assert not folder.cell_done("seed=1")
    folder.save_cell("seed=1", {"results": frame(1)}, {"theta": np.arange(3.0)})
    assert folder.cell_done("seed=1")
    cell = StudyFolder(folder.path, CONFIG).load_cell("seed=1")
    pd.testing.assert_frame_equal(cell.tables["results"], frame(1), check_exact=True)
    np.testing.assert_array_equal(cell.arrays["theta"], np.arange(3.0))


def test_the_order_of_storing_does_not_show(tmp_path):
    one, other = StudyFolder(tmp_path / "one", CONFIG), StudyFolder(tmp_path / "other", CONFIG)
    for seed in (1, 2, 3):
        one.save_cell(f"seed={seed}", {"results": frame(seed)})
    for seed in (3, 1, 2):
        other.save_cell(f"seed={seed}", {"results": frame(seed)})
    assert one.keys() == other.keys() == ["seed=1", "seed=2", "seed=3"]
    pd.testing.assert_frame_equal(one.table("results"), other.table("results"), check_exact=True)
    assert one.table("results", keys=["seed=3", "seed=1"])["seed"].tolist() == [3, 3, 1, 1]


def test_a_table_without_rows_leaves_the_others_as_they_are(folder):
    """An empty frame's columns are objects, which made numbers objects."""
    folder.save_cell("seed=1", {"damping": pd.DataFrame(columns=["seed", "loss"])})
    assert folder.table("damping").empty
    folder.save_cell("seed=2", {"damping": frame(2)})
    pd.testing.assert_frame_equal(folder.table("damping"), frame(2), check_exact=True)


def test_a_written_table_has_all_digits_and_no_index(folder):
    path = folder.write_table("results", pd.DataFrame({"seed": [1, 2], "loss": [1 / 3, 0.1 + 0.2]}))
    with path.open(newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header == ["seed", "loss"]
    assert [float(loss) for _, loss in rows] == [1 / 3, 0.1 + 0.2]


def test_text_that_would_be_a_formula_is_guarded_in_a_written_table(folder):
    path = folder.write_table("results", pd.DataFrame({"predicted": ["=1+1", "north"], "loss": [-1.0, 2.0]}))
    assert path.read_text() == "predicted,loss\n'=1+1,-1.0\nnorth,2.0\n"


def test_the_configuration_and_the_versions_are_in_the_folder(folder):
    record = json.loads((folder.path / "config.json").read_text())
    assert record["config"] == CONFIG
    assert "torch" in record["versions"]


def test_a_tuple_is_the_list_it_is_read_back_as(tmp_path):
    StudyFolder(tmp_path, {"widths": (5, 8)})
    assert StudyFolder(tmp_path, {"widths": [5, 8]}).config == {"widths": [5, 8]}


def test_a_study_is_opened_without_naming_its_configuration(folder):
    assert StudyFolder.open(folder.path).config == CONFIG


def test_opening_what_is_no_study_is_an_error_and_makes_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no study"):
        StudyFolder.open(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_a_folder_with_results_of_another_configuration_is_refused_naming_both_values(folder):
    folder.save_cell("seed=1", {"results": frame(1)})
    other = {"dataset": "wine", "training": {"epochs": 60000, "decay": 0.1}}
    with pytest.raises(ValueError, match="belongs to another configuration") as error:
        StudyFolder(folder.path, other)
    message = str(error.value)
    assert "dataset is iris there and wine here" in message
    assert "training.epochs is 3000 there and 60000 here" in message
    assert "training.decay is absent there and 0.1 here" in message
    assert "schemes is ['none', 'swa'] there and absent here" in message


def test_other_versions_are_a_warning(folder, caplog):
    path = folder.path / "config.json"
    record = json.loads(path.read_text())
    record["versions"]["torch"] = "1.0"
    record["sha256"] = fingerprint(config=record["config"], versions=record["versions"])
    path.write_text(json.dumps(record))
    with caplog.at_level(logging.WARNING):
        StudyFolder(folder.path, CONFIG)
    assert "was started with torch 1.0" in caplog.text


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match=r"not a study's folder .* holds \['thesis.tex'\]"):
        StudyFolder(tmp_path, CONFIG)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot be written"):
        StudyFolder(tmp_path / "file" / "study", CONFIG)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_a_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="cannot be written"):
        StudyFolder(tmp_path, CONFIG)


def test_a_folder_that_turned_read_only_is_refused(folder, monkeypatch):
    def refuse(path, content):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.write_bytes", refuse)
    with pytest.raises(OSError, match=r"cannot be written \(Permission denied\); choose another"):
        StudyFolder(folder.path, CONFIG)


@pytest.mark.parametrize("config", [{"scheme": object()}, {"decay": float("nan")}])
def test_a_configuration_that_is_not_json_is_refused(tmp_path, config):
    with pytest.raises(TypeError, match="plain JSON values"):
        StudyFolder(tmp_path / "study", config)
    assert not (tmp_path / "study").exists()


def test_a_damaged_configuration_is_named(folder):
    (folder.path / "config.json").write_text('{"config": {')
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        StudyFolder(folder.path, CONFIG)


def test_a_truncated_cell_is_set_aside_and_named(folder, caplog):
    folder.save_cell("seed=1", {"results": frame(1)})
    path = folder.path / "cells" / "seed=1.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DamagedFileError, match="cell 'seed=1' in"):
        folder.load_cell("seed=1")
    with caplog.at_level(logging.WARNING):
        assert not folder.cell_done("seed=1")
    assert "cell seed=1 cannot be used" in caplog.text
    assert path.with_name("seed=1.safetensors.corrupt").exists()
    assert folder.keys() == []
    folder.save_cell("seed=1", {"results": frame(1)})
    assert folder.cell_done("seed=1")


def test_a_missing_cell_or_table_is_an_error(folder):
    with pytest.raises(KeyError, match="has no cell 'seed=9'; it has 0 cells"):
        folder.load_cell("seed=9")
    folder.save_cell("seed=1", {"results": frame(1)})
    with pytest.raises(KeyError, match="has a table 'differences'"):
        folder.table("differences")


def test_what_a_killed_process_left_is_swept_and_work_in_progress_is_not(folder):
    old, new = (folder.path / "cells" / f"{age}.safetensors.partial" for age in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    again = StudyFolder(folder.path, CONFIG)
    assert not old.exists()
    assert new.exists()
    assert again.keys() == []


def test_a_folder_without_results_is_taken_by_the_corrected_configuration(folder):
    (folder.path / "nested").mkdir()
    StudyFolder(folder.path / "nested", CONFIG)
    corrected = StudyFolder(folder.path, {**CONFIG, "device": "cpu"})
    assert StudyFolder.open(folder.path).config == corrected.config == {**CONFIG, "device": "cpu"}
    for write in (lambda: folder.save_cell("seed=1", {}), lambda: folder.write_file("verdict.txt", b"late")):
        with pytest.raises(ValueError, match="device is cpu there and absent here"):
            write()
    with pytest.raises(ValueError, match="device is cpu there and absent here"), folder.writing():
        pytest.fail("the folder is another study's by now")
    assert corrected.keys() == []


@pytest.mark.parametrize("name", ["cells/seed=1.safetensors.corrupt", "scores.safetensors.solved", "nested/notes.txt"])
def test_whatever_else_is_in_a_folder_counts_as_a_result(folder, name):
    (folder.path / "nested").mkdir()
    (folder.path / name).write_text("")
    with pytest.raises(ValueError, match="belongs to another configuration"):
        StudyFolder(folder.path, {"dataset": "wine"})


def test_one_works_in_a_folder_at_a_time_and_so_do_its_workers(folder, monkeypatch):
    monkeypatch.setattr(folder_module, "WAIT_SECONDS", 0.1)
    with folder.writing(), folder.writing():
        with pytest.raises(BusyError, match=r"another process is writing the study folder .*; wait until it has"):
            StudyFolder(folder.path, CONFIG).writing().__enter__()
        with pytest.raises(BusyError, match="another process is writing the study folder"):
            StudyFolder(folder.path, CONFIG).save_cell("seed=1", {})
        pickle.loads(pickle.dumps(folder)).save_cell("seed=2", {})
    with StudyFolder(folder.path, CONFIG).writing():
        assert StudyFolder.open(folder.path).keys() == ["seed=2"]


def test_a_folder_at_work_is_not_taken_by_another_configuration(folder, monkeypatch):
    monkeypatch.setattr(folder_module, "WAIT_SECONDS", 0.1)
    with folder.writing(), pytest.raises(BusyError, match="another process is writing the study folder"):
        StudyFolder(folder.path, {"dataset": "wine"})
    assert StudyFolder.open(folder.path).config == CONFIG


CLAIMING = """
    import sys, time
    from bayes_influence.experiments.store.folder import StudyFolder

    while time.time() < float(sys.argv[3]):
        pass
    for study in range(20):
        try:
            folder = StudyFolder(f"{sys.argv[1]}/{study}", {"who": sys.argv[2]})
            folder.save_cell("seed=0", {})
            print(study)
        except ValueError:
            pass
"""


def test_of_two_processes_that_start_in_a_folder_one_has_it(tmp_path):
    start = str(time.time() + 8)
    claims = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(CLAIMING), str(tmp_path), who, start], stdout=subprocess.PIPE
        )
        for who in ("one", "other")
    ]
    won = [{int(study) for study in claim.communicate(timeout=120)[0].split()} for claim in claims]
    assert [claim.returncode for claim in claims] == [0, 0]
    assert won[0] | won[1] == set(range(20))
    assert not won[0] & won[1]
    for who, studies in zip(("one", "other"), won, strict=True):
        assert all(StudyFolder.open(tmp_path / str(study)).config == {"who": who} for study in studies)


def test_every_flipped_bit_of_a_configuration_is_noticed(folder):
    path = folder.path / "config.json"
    content = path.read_bytes()
    for place in range(0, 8 * len(content), 5):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        with suppress(ValueError):
            assert StudyFolder.open(folder.path).config == CONFIG  # an indentation, perhaps
    path.write_bytes(content.replace(b"3000", b"3001"))
    with pytest.raises(ValueError, match=r"is damaged .its content does not match its checksum"):
        StudyFolder.open(folder.path)


def test_a_full_disk_leaves_a_cell_as_it_was(folder, monkeypatch):
    folder.save_cell("seed=1", {"results": frame(1)})

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        folder.save_cell("seed=1", {"results": frame(2)})
    monkeypatch.undo()
    pd.testing.assert_frame_equal(folder.load_cell("seed=1").tables["results"], frame(1))
    assert [path.name for path in (folder.path / "cells").iterdir()] == ["seed=1.safetensors"]


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: content[:-1] + b"?", lambda _: b""])
def test_a_damaged_table_is_written_anew_out_of_the_cells(folder, damage):
    folder.save_cell("seed=1", {"results": frame(1)})
    path = folder.write_table("results", folder.table("results"))
    written = path.read_bytes()
    path.write_bytes(damage(written))
    again = StudyFolder(folder.path, CONFIG)
    assert again.write_table("results", again.table("results")).read_bytes() == written
