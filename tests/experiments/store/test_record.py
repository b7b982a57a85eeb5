import json

import pytest

from bayes_influence.data.plain_fingerprint import plain_fingerprint
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.store.record import CONFIG, read_record


def test_a_record_is_read_as_it_was_written(tmp_path):
    folder = StudyFolder(tmp_path / "study", {"seed": 3, "sizes": (1, 2.5)})
    read = read_record(folder.path / CONFIG)
    assert read["config"] == {"seed": 3, "sizes": [1, 2.5]}
    assert "torch" in read["versions"]
    stored = json.loads((folder.path / CONFIG).read_text())
    assert stored["sha256"] == plain_fingerprint(**read)


def test_a_record_that_was_changed_is_refused(tmp_path):
    folder = StudyFolder(tmp_path / "study", {"seed": 3})
    stored = json.loads((folder.path / CONFIG).read_text())
    stored["config"]["seed"] = 4
    (folder.path / CONFIG).write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=r"config\.json is damaged \(its content does not match its checksum\)"):
        read_record(folder.path / CONFIG)
    (folder.path / CONFIG).write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is damaged .*; restore it, or choose another folder"):
        read_record(folder.path / CONFIG)
