"""Everything that is stored, by everything that can happen to it: nothing lost, nothing wrong."""

import re
import resource
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from bayes_influence.data.files import PARTIAL
from bayes_influence.data.locks import LOCK, BusyError
from bayes_influence.experiments.store import folder as folder_module
from bayes_influence.experiments.store.record import CONFIG
from tests.stored.kinds import KINDS

REFUSED = r"cannot be used: .*(delete it to start anew|compute the scores again)|is damaged|move it away to download"
"""What is said of a damaged file that cannot be made anew without a word; it names what to do."""


class KilledError(BaseException):
    """The process ends here, without any cleaning up."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Of every kind, a folder in which it was made without an accident, and what came of it."""
    made = {}

    def of(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind) / "stored"
            made[kind] = folder, KINDS[kind](folder)
        return made[kind]

    return of


def same(one, other):
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def outcome(kind, folder, expected):
    """What is refused of what lies in a folder, None where what is made of it is right."""
    try:
        assert same(KINDS[kind](folder), expected), folder
    except (ValueError, OSError) as error:
        return str(error)
    return None


def stored(folder):
    """The files that a kind is stored in."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(LOCK))


@contextmanager
def killed_at(monkeypatch, write):
    """The process dies before the file that is written as the n-th bears its name; what was written of it stays."""
    count = iter(range(1000))
    with monkeypatch.context() as patch:
        original = Path.replace

        def put(self, target):
            if next(count) == write:
                raise KilledError
            return original(self, target)

        patch.setattr(Path, "replace", put)
        patch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
        yield


@contextmanager
def full_disk(room):
    """Every file ends after so many bytes, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("write", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_a_process_that_dies_while_it_writes_is_followed_by_one_that_finishes(
    kind, write, whole, tmp_path, monkeypatch
):
    folder = tmp_path / "stored"
    try:
        with killed_at(monkeypatch, write):
            KINDS[kind](folder)
    except KilledError:
        assert any(path.name.endswith((PARTIAL, ".unfinished")) for path in stored(folder)) or kind == "downloads"
    assert same(KINDS[kind](folder), whole(kind)[1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_is_an_error_that_costs_nothing(kind, whole, tmp_path):
    folder = tmp_path / "stored"
    with full_disk(50), pytest.raises(OSError, match=r"File too large|No space left|cannot be written|cannot download"):
        KINDS[kind](folder)
    assert same(KINDS[kind](folder), whole(kind)[1])


@pytest.mark.parametrize("kind", ["table", "figure", "page", "streamed_scores"])
def test_a_full_disk_leaves_what_was_there(kind, whole, tmp_path):
    folder = tmp_path / "stored"
    shutil.copytree(whole(kind)[0], folder)
    before = {path: path.read_bytes() for path in stored(folder)}
    with full_disk(50), pytest.raises(OSError, match=r"File too large|No space left"):
        KINDS[kind](folder)
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("kind", KINDS)
def test_of_two_that_write_at_once_both_are_right_or_one_is_refused(kind, whole, tmp_path, monkeypatch):
    folder, original, others = tmp_path / "stored", Path.replace, []
    monkeypatch.setattr(folder_module, "WAIT_SECONDS", 0.05)

    def meanwhile(self, target):
        if not others:
            others.append(None)
            try:
                others[0] = KINDS[kind](folder)
            except BusyError as error:
                assert "another process is writing" in str(error)  # noqa: PT017
        return original(self, target)

    monkeypatch.setattr(Path, "replace", meanwhile)
    assert same(KINDS[kind](folder), whole(kind)[1])
    assert others[0] is None or same(others[0], whole(kind)[1])
    assert same(KINDS[kind](folder), whole(kind)[1])


def flipped(content, place):
    return content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :]


DAMAGES = {
    "flipped at the start": lambda content: flipped(content, 3),
    "flipped in the middle": lambda content: flipped(content, len(content) // 2),
    "flipped near the end": lambda content: flipped(content, len(content) - 9),
    "without its end": lambda content: content[:-1],
    "half of it": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
}


ACCIDENTS = [
    pytest.param(kind, damage, marks=pytest.mark.slow if kind == "figure" and damage.startswith("flipped") else ())
    for kind in KINDS
    for damage in DAMAGES
]
"""Every damage to every kind; a figure is drawn anew for each of its files, which takes ten seconds."""


@pytest.mark.parametrize(("kind", "damage"), ACCIDENTS)
def test_a_damaged_file_is_made_anew_or_refused_by_name(kind, damage, whole, tmp_path):
    source, expected = whole(kind)
    for number in range(len(stored(source))):
        folder = tmp_path / str(number)
        shutil.copytree(source, folder)
        path = stored(folder)[number]
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
        refusal = outcome(kind, folder, expected)
        if refusal is not None:
            assert re.search(rf"{re.escape(path.name)}.*({REFUSED})", refusal), refusal
            path.unlink()
            if path.name != CONFIG:
                assert outcome(kind, folder, expected) is None, path.name
