"""Files that are either the old ones or the new ones, never something in between."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from bayes_influence.arguments import shown

if TYPE_CHECKING:
    import pandas as pd

PARTIAL = ".partial"
"""Ending of a file that is still being written; one that a killed process left behind may be deleted."""

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What a cell begins with that a spreadsheet would take for a formula."""


def checked_place(path: Any, what: str) -> Path:
    """Where a file may be written: a device, a pipe or a folder is never replaced by one.

    Args:
        path: What was given as the path.
        what: What is to be written there, as a message names it.

    Raises:
        TypeError: If it is no path.
        ValueError: If something stands there that is no file.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"{what} are written to a path, got {shown(path)}; give a string or a Path")
    place = Path(path)
    if place.exists() and not place.is_file():
        kind = "a folder" if place.is_dir() else "no ordinary file"
        raise ValueError(
            f"{what} cannot be written to {place}, which is {kind}; name a file that is new or may be replaced"
        )
    return place


def named(path: Path) -> Path:
    """The same path with a name of its own: `.` and `..` have none until they are resolved."""
    return path if path.name not in ("", "..") else path.resolve()


def write_whole(path: Path, content: bytes) -> None:
    """Writes `content` to a file beside `path` and puts it in the place of `path`, see `replacing`.

    Args:
        path: The file to write or replace.
        content: All of it.

    Raises:
        OSError: If the folder cannot be written or the disk is full; `path` is then what it was.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` to be written; at the end it is forced to disk and renamed onto `path`.

    A process killed at any moment leaves `path` as it was or complete.

    Args:
        path: The file to write or replace.

    Raises:
        OSError: If the folder cannot be written or the disk is full; `path` is then what it was.
    """
    temporary = path.with_name(f"{path.name}.{uuid4().hex}{PARTIAL}")
    try:
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Forces a rename in `folder` to disk, where the system lets a folder be opened."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def guarded(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with an apostrophe before every text that a spreadsheet would take for a formula; numbers stay.

    Args:
        frame: To be written as CSV that people open.
    """
    return frame.map(_guarded_cell).rename(columns=_guarded_cell)


def _guarded_cell(value: object) -> object:
    if isinstance(value, str) and value.startswith(FORMULA) and not _is_number(value):
        return "'" + value
    return value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
