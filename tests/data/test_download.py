import errno
import gzip
import logging
import os
import re
import tarfile
from dataclasses import replace
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import pytest
import requests

from bayes_influence.data import download
from bayes_influence.data.download import DATA_VARIABLE, Source, SourceFile, data_folder

CONTENTS = {"first": b"first content" * 100, "second": b"second content" * 100}
FILES = tuple(SourceFile(name, sha256(content).hexdigest()) for name, content in CONTENTS.items())
NOWHERE = Source("toy", FILES, mirrors=(), folders=("elsewhere/raw",))


@pytest.fixture(autouse=True)
def _no_data_variable(monkeypatch):
    monkeypatch.delenv(DATA_VARIABLE, raising=False)


def made(folder):
    folder.mkdir()
    return folder


def put(folder, packed=False, contents=CONTENTS):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)


def packed_mirror(mirror, contents=CONTENTS):
    put(mirror.folder, packed=True, contents=contents)
    return replace(NOWHERE, mirrors=(mirror.address,))


def archive_mirror(mirror, contents=CONTENTS):
    with tarfile.open(mirror.folder / "toy.tar.gz", "w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"toy-folder/{name}")
            member.size = len(content)
            archive.addfile(member, BytesIO(content))
    return replace(NOWHERE, mirrors=(f"{mirror.address}toy.tar.gz",), archive=True)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("place", ["", "toy", "elsewhere/raw"])
def test_files_in_a_named_folder(tmp_path, place, packed):
    put(tmp_path / place, packed)
    assert NOWHERE.contents(tmp_path) == CONTENTS


def test_files_packed_by_another_program_have_the_same_content(tmp_path):
    put(tmp_path)
    (tmp_path / "first").unlink()
    (tmp_path / "first.gz").write_bytes(gzip.compress(CONTENTS["first"], compresslevel=1, mtime=12345))
    assert NOWHERE.contents(tmp_path) == CONTENTS


def test_folder_named_by_the_environment(tmp_path, monkeypatch):
    put(tmp_path / "toy")
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    assert NOWHERE.contents() == CONTENTS
    (tmp_path / "other").mkdir()
    assert data_folder(tmp_path / "other") == tmp_path / "other"


def test_folder_of_the_environment_that_does_not_exist(tmp_path, monkeypatch):
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "absent"))
    with pytest.raises(
        FileNotFoundError, match=r"BAYES_INFLUENCE_DATA names the folder .*absent, which does not exist"
    ):
        data_folder()


def test_without_a_named_folder_the_users_cache_is_used():
    assert data_folder().name == "bayes_influence"


@pytest.mark.parametrize("make", [packed_mirror, archive_mirror])
def test_download_once_and_work_offline_afterwards(tmp_path, mirror, make):
    source, folder = make(mirror), made(tmp_path / "data")
    assert source.contents(folder) == CONTENTS
    asked = len(mirror.requests)
    assert source.contents(folder) == CONTENTS
    assert len(mirror.requests) == asked
    assert replace(source, mirrors=()).contents(folder, download=False) == CONTENTS
    assert len(list((folder / "toy").iterdir())) == 2


def test_only_missing_files_are_downloaded(tmp_path, mirror):
    source, folder = packed_mirror(mirror), tmp_path / "data"
    put(folder, contents={"first": CONTENTS["first"]})
    assert source.contents(folder) == CONTENTS
    assert [request.split()[1] for request in mirror.requests] == ["/second.gz"]


@pytest.mark.parametrize("make", [packed_mirror, archive_mirror])
def test_next_mirror_is_tried_when_one_fails(tmp_path, mirror, caplog, make):
    source = make(mirror)
    source = replace(source, mirrors=(f"{mirror.address}absent/", *source.mirrors))
    with caplog.at_level(logging.INFO):
        assert source.contents(made(tmp_path / "data")) == CONTENTS
    assert "absent/ failed: 404" in caplog.text


@pytest.mark.parametrize("make", [packed_mirror, archive_mirror])
def test_altered_download_is_never_kept(tmp_path, mirror, make):
    source = make(mirror, contents={**CONTENTS, "second": b"altered"})
    with pytest.raises(FileNotFoundError, match=rf"second.*expected SHA-256 {FILES[1].sha256}"):
        source.contents(made(tmp_path / "data"))
    assert not list((tmp_path / "data").rglob("second*"))


def test_truncated_download_is_never_kept(tmp_path, mirror):
    source = packed_mirror(mirror)
    (mirror.folder / "first.gz").write_bytes(gzip.compress(CONTENTS["first"])[:-20])
    with pytest.raises(FileNotFoundError, match=r"first not found .* could not be downloaded \(.* cannot be unpacked"):
        source.contents(made(tmp_path / "data"))
    assert not list((tmp_path / "data").rglob("first*"))


def test_archive_without_a_file(tmp_path, mirror):
    source = archive_mirror(mirror, contents={"first": CONTENTS["first"]})
    with pytest.raises(
        FileNotFoundError,
        match=r"first, second not found .* could not be downloaded .* holds no file second",
    ):
        source.contents(made(tmp_path / "data"))


def test_missing_file_without_download_names_it_and_the_places(tmp_path):
    put(tmp_path, contents={"first": CONTENTS["first"]})
    with pytest.raises(FileNotFoundError, match=rf"toy: second not found \(nor as .gz\) in {tmp_path}/toy, .*raw, "):
        NOWHERE.contents(tmp_path, download=False)


def test_missing_file_that_no_mirror_has_says_what_to_do(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=rf"toy: first not found \(nor as .gz\) in {tmp_path}/toy, {tmp_path}/elsewhere/raw, {tmp_path}, and "
        r"could not be downloaded \(no mirror is known\); put the files there, or name the folder that has them, by",
    ):
        NOWHERE.contents(tmp_path)


def test_altered_file_is_refused_by_name_with_both_checksums(tmp_path):
    put(tmp_path)
    altered = CONTENTS["second"].replace(b"second", b"forged", 1)
    (tmp_path / "second").write_bytes(altered)
    message = rf"{tmp_path}/second is not .* {FILES[1].sha256} of its content, found {sha256(altered).hexdigest()}"
    with pytest.raises(ValueError, match=message):
        NOWHERE.contents(tmp_path)


@pytest.mark.parametrize("packed", [False, True])
def test_truncated_file_is_refused_by_name(tmp_path, packed):
    put(tmp_path, packed)
    path = tmp_path / ("first.gz" if packed else "first")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=rf"{path} .*SHA-256 {FILES[0].sha256}.*found .*move it away"):
        NOWHERE.contents(tmp_path)


def test_folder_that_cannot_be_written_to(tmp_path):
    occupied = tmp_path / "toy"
    occupied.write_text("a file, not a folder")
    with pytest.raises(OSError, match=rf"cannot download to {occupied} \(File exists\); name a folder"):
        NOWHERE.contents(tmp_path)


def test_a_named_folder_that_is_none_is_refused_before_anything_is_downloaded(tmp_path, mirror):
    source, absent = packed_mirror(mirror), tmp_path / "absent"
    with pytest.raises(FileNotFoundError, match=rf"the data folder {absent} does not exist; name the one in which the"):
        source.contents(absent)
    assert not absent.exists()
    absent.write_text("a file")
    with pytest.raises(FileNotFoundError, match=rf"the data folder {absent} is a file; name the one in which the"):
        source.contents(absent)


def test_a_failed_download_leaves_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="could not be downloaded"):
        NOWHERE.contents(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_mirrors_that_fail_are_told_in_a_few_words(tmp_path, mirror, caplog, monkeypatch):
    def transfer(url, path):
        if url.startswith("http://slow"):
            raise requests.ReadTimeout("HTTPConnectionPool(host='slow', port=80): Read timed out. (read timeout=30)")
        original(url, path)

    original = download._transfer
    monkeypatch.setattr(download, "_transfer", transfer)
    source = replace(NOWHERE, mirrors=("http://127.0.0.1:9/", f"{mirror.address}absent/", "http://slow/"))
    host = mirror.address.removeprefix("http://").rstrip("/")
    told = (
        f"toy: first not found (nor as .gz) in {tmp_path}/toy, {tmp_path}/elsewhere/raw, {tmp_path}, and could not be "
        f"downloaded (127.0.0.1:9: no connection; {host}: 404 File not found; slow: no answer in time); put the files "
        "there, or name the folder that has them, by --data-folder, the argument folder or the environment variable "
        "BAYES_INFLUENCE_DATA"
    )
    with caplog.at_level(logging.WARNING), pytest.raises(FileNotFoundError, match=f"^{re.escape(told)}$"):
        source.contents(tmp_path)
    assert caplog.text == ""


@pytest.mark.parametrize("where", ["transfer", "rename"])
def test_a_full_disk_is_no_mirrors_fault(tmp_path, mirror, monkeypatch, where):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    source = packed_mirror(mirror)
    monkeypatch.setattr(*((download, "_transfer") if where == "transfer" else (Path, "replace")), full)
    with pytest.raises(OSError, match=r"cannot download to .*/toy \(No space left on device\); name a folder that has"):
        source.contents(made(tmp_path / "data"))
    assert not list((tmp_path / "data").iterdir())


@pytest.mark.parametrize(
    "error", [ConnectionResetError(errno.ECONNRESET, "reset"), TimeoutError(errno.ETIMEDOUT, "late")]
)
def test_a_connection_that_breaks_is_a_mirrors_fault(tmp_path, monkeypatch, error):
    def broken(*arguments):
        raise error

    monkeypatch.setattr(download, "_transfer", broken)
    with pytest.raises(FileNotFoundError, match=r"mirror: no (connection|answer in time)"):
        replace(NOWHERE, mirrors=("http://mirror/",)).contents(tmp_path)
