"""Files of public data sets: found in a folder or downloaded, and never used before their checksum agrees."""

from __future__ import annotations

import gzip
import logging
import os
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import pooch

logger = logging.getLogger(__name__)

DATA_VARIABLE = "BAYES_INFLUENCE_DATA"
"""Environment variable that names the folder in which data sets are kept."""

UNREADABLE = (OSError, EOFError, zlib.error, tarfile.TarError, ValueError)
"""What a failed transfer, a truncated archive and a wrong checksum raise."""


@dataclass(frozen=True)
class SourceFile:
    """One file of a data set.

    Attributes:
        name: What it is called when unpacked.
        sha256: Checksum of the unpacked content. Not of an archive: the same content is distributed packed in
            several ways (mirrors and operating systems pack it anew), and it is the content that has to be right.
    """

    name: str
    sha256: str

    def checked(self, content: bytes, where: str | Path) -> bytes:
        """The content itself, once its checksum agrees.

        Raises:
            ValueError: If it does not.
        """
        found = sha256(content).hexdigest()
        if found != self.sha256:
            raise ValueError(
                f"{where} is not the file that was published as {self.name} (truncated, altered, or of another data "
                f"set): expected SHA-256 {self.sha256} of its content, found {found}; move it away to download it anew"
            )
        return content

    def read(self, path: Path) -> bytes:
        """The unpacked content of a file on disk, `.gz` or not.

        Raises:
            ValueError: If it cannot be unpacked, or its checksum does not agree.
        """
        content = path.read_bytes()
        if path.suffix == ".gz":
            try:
                content = gzip.decompress(content)
            except (OSError, EOFError, zlib.error) as error:
                raise ValueError(
                    f"{path} cannot be unpacked ({error}): expected {self.name} with SHA-256 {self.sha256}, found "
                    f"a truncated or altered file; move it away to download it anew"
                ) from error
        return self.checked(content, path)


@dataclass(frozen=True)
class Source:
    """The files of one data set and where they come from.

    Attributes:
        name: Of the data set, and of the folder that its files are downloaded to.
        files: What has to be there.
        mirrors: Addresses, tried in this order. Without `archive`, each is a folder that has every file as
            `NAME.gz`; with it, each is a tar archive that has them all.
        archive: Whether the mirrors are archives.
        folders: Where else in a data folder the files may lie, as other programs put them.
    """

    name: str
    files: tuple[SourceFile, ...]
    mirrors: tuple[str, ...]
    archive: bool = False
    folders: tuple[str, ...] = ()

    def contents(self, folder: str | os.PathLike[str] | None = None, download: bool = True) -> dict[str, bytes]:
        """The content of every file, by name, each with its checksum verified.

        Files are looked for in the folder's subfolders for this data set and in the folder itself, packed with gzip
        or not; what is found is used without asking the network. What is missing is downloaded to `folder/name`.

        Args:
            folder: Where data sets are kept. When not given, the folder that the environment variable
                BAYES_INFLUENCE_DATA names; without that, a folder in the user's cache.
            download: Whether missing files may be downloaded.

        Raises:
            ValueError: If a file that is there has another checksum.
            FileNotFoundError: If a file is missing and cannot, or may not, be downloaded.
            OSError: If a file is missing and the folder cannot be written to, or is full.
        """
        found = self.files_in(folder, download)
        return {file.name: file.read(found[file]) for file in self.files}

    def files_in(self, folder: str | os.PathLike[str] | None = None, download: bool = True) -> dict[SourceFile, Path]:
        """Where every file is, once those that are missing have been downloaded; see `contents`.

        Args:
            folder: As there.
            download: As there.

        Raises:
            FileNotFoundError: If the folder does not exist, or a file is missing and cannot, or may not, be downloaded.
            OSError: If a file is missing and the folder cannot be written to, or is full.
        """
        base = data_folder(folder)
        found = self._found(base)
        missing = [file for file in self.files if file not in found]
        if missing and not download:
            raise FileNotFoundError(
                f"{self.name}: {', '.join(file.name for file in missing)} not found (nor as .gz) in "
                f"{', '.join(map(str, self._places(base)))}; put the files there, or allow the download"
            )
        if missing:
            logger.info("%s: %s not found in %s", self.name, ", ".join(file.name for file in missing), base)
            self._download(missing, base)
            found = self._found(base)
        return found

    def _places(self, base: Path) -> tuple[Path, ...]:
        return (base / self.name, *(base / folder for folder in self.folders), base)

    def _found(self, base: Path) -> dict[SourceFile, Path]:
        found: dict[SourceFile, Path] = {}
        for file in self.files:
            candidates = (place / name for place in self._places(base) for name in (file.name, f"{file.name}.gz"))
            if path := next((path for path in candidates if path.is_file()), None):
                found[file] = path
        return found

    def _download(self, missing: Sequence[SourceFile], base: Path) -> None:
        """Downloads into a folder beside the target, so that only complete, verified files ever bear their names."""
        target = base / self.name
        jobs = [missing] if self.archive else [[file] for file in missing]
        with _workplace(target) as workplace:
            for files in jobs:
                for path in self._from_mirrors(files, workplace, base):
                    path.replace(target / path.name)

    def _from_mirrors(self, files: Sequence[SourceFile], workplace: Path, base: Path) -> list[Path]:
        fetch = _fetch_archive if self.archive else _fetch_packed
        failures = []
        for mirror in self.mirrors:
            try:
                return fetch(mirror, files, workplace)
            except UNREADABLE as error:
                if _is_of_the_disk(error):
                    raise
                logger.info("%s: the mirror %s failed: %s", self.name, mirror, error)
                failures.append(f"{urlsplit(mirror).netloc}: {_in_few_words(error)}")
        raise FileNotFoundError(
            f"{self.name}: {', '.join(file.name for file in files)} not found (nor as .gz) in "
            f"{', '.join(map(str, self._places(base)))}, and could not be downloaded "
            f"({'; '.join(failures) or 'no mirror is known'}); put the files there, or name the folder that has them, "
            f"by --data-folder, the argument folder or the environment variable {DATA_VARIABLE}"
        )


def _is_of_the_disk(error: BaseException) -> bool:
    """Whether an error of the operating system is about files, and not about the network."""
    return getattr(error, "errno", None) is not None and not isinstance(error, ConnectionError | TimeoutError)


def _in_few_words(error: BaseException) -> str:
    """Why a mirror failed, without the pages that network libraries write about it."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"{response.status_code} {response.reason}"
    if "Timeout" in type(error).__name__:
        return "no answer in time"
    return "no connection" if isinstance(error, OSError) else str(error)


def data_folder(folder: str | os.PathLike[str] | None = None) -> Path:
    """Where data sets are kept: the argument, else the folder that BAYES_INFLUENCE_DATA names, else the user's cache.

    Raises:
        FileNotFoundError: If the argument or the environment variable names a folder that does not exist.
    """
    if folder is not None:
        path = Path(folder).expanduser()
        if not path.is_dir():
            raise FileNotFoundError(
                f"the data folder {folder} {'is a file' if path.exists() else 'does not exist'}; name the one in which "
                "the files are, or create it, and what is missing is downloaded to it"
            )
        return path
    named = os.environ.get(DATA_VARIABLE)
    if not named:
        return Path(pooch.os_cache("bayes_influence"))
    if not Path(named).expanduser().is_dir():
        raise FileNotFoundError(
            f"{DATA_VARIABLE} names the folder {named}, which does not exist; create it or unset the variable"
        )
    return Path(named).expanduser()


@contextmanager
def _workplace(target: Path) -> Iterator[Path]:
    """A temporary folder inside `target`, which is made first; what the disk refuses is said with the folder."""
    try:
        target.mkdir(parents=True, exist_ok=True)
        try:
            with TemporaryDirectory(dir=target, prefix=".download-") as path:
                yield Path(path)
        finally:
            if not any(target.iterdir()):
                target.rmdir()
    except OSError as error:
        if not _is_of_the_disk(error):
            raise
        raise OSError(
            f"cannot download to {target} ({error.strerror}); name a folder that has room and can be written to, by "
            f"argument or by the environment variable {DATA_VARIABLE}"
        ) from error


def _fetch_packed(mirror: str, files: Sequence[SourceFile], workplace: Path) -> list[Path]:
    paths = [workplace / f"{file.name}.gz" for file in files]
    for file, path in zip(files, paths, strict=True):
        _transfer(f"{mirror}{path.name}", path)
        file.read(path)
    return paths


def _fetch_archive(mirror: str, files: Sequence[SourceFile], workplace: Path) -> list[Path]:
    archive = workplace / "archive"
    _transfer(mirror, archive)
    paths = []
    with tarfile.open(archive) as opened:
        members = {Path(member.name).name: member for member in opened.getmembers() if member.isfile()}
        for file in files:
            reader = opened.extractfile(members[file.name]) if file.name in members else None
            if reader is None:
                raise ValueError(f"the archive holds no file {file.name}")
            paths.append(workplace / file.name)
            paths[-1].write_bytes(file.checked(reader.read(), f"{file.name} in {mirror}"))
    return paths


def _transfer(url: str, path: Path) -> None:
    logger.info("downloading %s", url)
    pooch.HTTPDownloader(progressbar=True)(url, str(path), None)
