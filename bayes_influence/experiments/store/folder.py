"""A study's folder: its configuration, its finished cells, and the tables and figures made of them."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from bayes_influence.data.files import PARTIAL, guarded, write_whole
from bayes_influence.data.locks import LOCK, BusyError, only_writer
from bayes_influence.data.plain_fingerprint import plain_fingerprint
from bayes_influence.data.sealed import DamagedFileError
from bayes_influence.data.versions import environment
from bayes_influence.experiments.store.cells import CellResult, checked_key, decode_cell, encode_cell
from bayes_influence.experiments.store.record import CELL_SUFFIX, CELLS, CONFIG, read_record, read_study

logger = logging.getLogger(__name__)

CORRUPT_SUFFIX = ".corrupt"
ABANDONED_SECONDS = 24 * 3600
"""Age from which a partial file cannot be another process's work in progress."""

WAIT_SECONDS = 3.0
"""How long a study waits for another process: claiming a folder, or writing one file, is done by then."""


class StudyFolder:
    """A folder that belongs to one configuration and holds its cells, each written whole as it finishes.

    `config.json` has the configuration and the versions it was first run with; `cells/<key>.safetensors` is one cell.
    Both carry checksums. Tables and figures are made of the cells, for people, and are not read back.

    Of several processes that start in an empty folder, one claims it. A folder without any result may be claimed by
    another configuration, so that a command that failed is not in the way of the one that corrects it.

    Args:
        path: The folder; created when it does not exist, continued when it holds the same configuration.
        config: Everything needed to repeat the study, as JSON can hold it.
        versions: That its cells are computed with, which a new folder records; this environment's when not given.

    Attributes:
        path: The folder.
        config: The configuration, as it was read back from JSON (tuples are lists).

    Raises:
        TypeError: If the configuration cannot be written as JSON.
        ValueError: If the folder holds results of another configuration, or is not empty and not a study's.
        BusyError: If a study of another configuration is at work in it.
        OSError: If the folder cannot be written. All of these are raised before any work is done.
    """

    def __init__(self, path: str | Path, config: Mapping[str, Any], versions: Mapping[str, Any] | None = None) -> None:
        self.path = Path(path)
        self.config = _as_json(config)
        self._versions = environment() if versions is None else dict(versions)
        self._writing = False
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / f"probe{PARTIAL}"
            probe.write_bytes(b"")
            probe.unlink(missing_ok=True)
        except OSError as error:
            raise OSError(
                f"the study folder {self.path} cannot be written ({error.strerror}); choose another one"
            ) from error
        self._claim()
        for name, old, new in differences(read_record(self.path / CONFIG)["versions"], self._versions):
            logger.warning("%s was started with %s %s, and continues with %s", self.path, name, old, new)
        self._cells.mkdir(exist_ok=True)
        self._sweep()

    @classmethod
    def open(cls, path: str | Path) -> StudyFolder:
        """The study that a folder holds, with the configuration it holds.

        Raises:
            FileNotFoundError: If the folder holds no study.
            ValueError: If its `config.json` is damaged.
        """
        return cls(path, read_study(Path(path))["config"])

    @property
    def _cells(self) -> Path:
        return self.path / CELLS

    @contextmanager
    def writing(self) -> Iterator[None]:
        """The one right to write in this folder, for as long as a study runs; within it, asking again is free.

        This object has it then, with the copies of it that workers got. A process that dies loses it. Reading needs no
        right: what is there is whole.

        Raises:
            BusyError: If another study works in it.
            ValueError: If it has been claimed by another configuration in the meantime.
        """
        if self._writing:
            yield
            return
        with only_writer(self.path / CONFIG, f"the study folder {self.path}", WAIT_SECONDS):
            self._check_mine()
            self._writing = True
            try:
                yield
            finally:
                self._writing = False

    def _claim(self) -> None:
        """Takes the folder for this configuration, alone of all that try, unless it is this configuration's already."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not self._is_mine():
            try:
                with only_writer(self.path / CONFIG, f"the study folder {self.path}"):
                    if not self._is_mine():
                        record = {"config": self.config, "versions": self._versions}
                        sealed = record | {"sha256": plain_fingerprint(**record)}
                        write_whole(self.path / CONFIG, json.dumps(sealed, indent=2).encode())
            except BusyError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def _is_mine(self) -> bool:
        """Whether the folder is this configuration's; not, where it may be claimed.

        Raises:
            ValueError: If it holds what is not a study's, or results of another configuration.
        """
        if (self.path / CONFIG).exists():
            mine = not differences(read_record(self.path / CONFIG)["config"], self.config)
            if not mine and self._has_results():
                self._check_mine()
            return mine
        strangers = sorted(item.name for item in self.path.iterdir() if not item.name.endswith((PARTIAL, LOCK)))
        if strangers:
            raise ValueError(
                f"{self.path} is not a study's folder (no {CONFIG}) but holds {strangers[:3]}; "
                "choose a new or an empty folder"
            )
        return False

    def _has_results(self) -> bool:
        """Whether there is any file that is not a configuration, a lock, or what a killed process left half written."""
        files = (item.name for item in self.path.rglob("*") if item.is_file())
        return any(name != CONFIG and not name.endswith((PARTIAL, LOCK)) for name in files)

    def _check_mine(self) -> None:
        """Refuses another configuration than this one."""
        apart = differences(read_record(self.path / CONFIG)["config"], self.config)
        if apart:
            listed = "; ".join(f"{key} is {old} there and {new} here" for key, old, new in apart)
            raise ValueError(
                f"the study folder {self.path} belongs to another configuration: {listed}. "
                "Choose another folder (--out on the command line), or the same configuration to continue"
            )

    def _sweep(self) -> None:
        """Deletes partial files that a killed process left behind; another process may be doing the same."""
        for partial in self.path.rglob(f"*{PARTIAL}"):
            with suppress(FileNotFoundError):
                if time.time() - partial.stat().st_mtime > ABANDONED_SECONDS:
                    partial.unlink()

    def _file(self, key: str) -> Path:
        return self._cells / f"{checked_key(key)}{CELL_SUFFIX}"

    def cell_done(self, key: str) -> bool:
        """Whether the cell is stored and readable.

        A cell that is truncated or does not match its checksum is renamed to `<file>.corrupt`, a warning names it,
        and it counts as not done.

        Raises:
            ValueError: If the key cannot be a file name.
        """
        path = self._file(key)
        if not path.exists():
            return False
        try:
            decode_cell(path.read_bytes())
        except DamagedFileError as error:
            aside = path.with_name(path.name + CORRUPT_SUFFIX)
            path.replace(aside)
            logger.warning("cell %s cannot be used: %s; set aside as %s, to be computed again", key, error, aside)
            return False
        return True

    def save_cell(
        self, key: str, tables: Mapping[str, pd.DataFrame], arrays: Mapping[str, np.ndarray | Tensor] | None = None
    ) -> None:
        """Stores a finished cell whole, replacing an earlier one; see `encode_cell` for what it may hold.

        Raises:
            ValueError, TypeError: If the key cannot be a file name, the content cannot be stored exactly, or the folder
                has been claimed by another configuration.
            BusyError: If another study works in the folder.
            OSError: If the file cannot be written.
        """
        with self.writing():
            write_whole(self._file(key), encode_cell(CellResult(tables, arrays or {})))

    def load_cell(self, key: str) -> CellResult:
        """A stored cell.

        Raises:
            KeyError: If no such cell is stored.
            DamagedFileError: If it is truncated or does not match its checksum.
        """
        path = self._file(key)
        if not path.exists():
            raise KeyError(f"{self.path} has no cell {key!r}; it has {len(self.keys())} cells")
        try:
            return decode_cell(path.read_bytes())
        except DamagedFileError as error:
            raise DamagedFileError(f"cell {key!r} in {path} cannot be used: {error}; run the study again") from error

    def keys(self) -> list[str]:
        """Keys of the stored cells, sorted: the order does not tell which one finished first."""
        return sorted(path.name.removesuffix(CELL_SUFFIX) for path in self._cells.glob(f"*{CELL_SUFFIX}"))

    def table(self, name: str, keys: Iterable[str] | None = None) -> pd.DataFrame:
        """One table of several cells, one below the other.

        Args:
            name: The table's name; cells without it are passed over.
            keys: Which cells, in which order; all, sorted by key, when not given.

        Raises:
            KeyError: If a cell is not stored, or none has such a table.
            DamagedFileError: If a cell cannot be read.
        """
        cells = (self.load_cell(key).tables for key in (self.keys() if keys is None else keys))
        frames = [tables[name] for tables in cells if name in tables]
        if not frames:
            raise KeyError(f"no stored cell of {self.path} has a table {name!r}")
        # Of a table without rows the columns' kinds may be unknown, and would spoil those of the others.
        return pd.concat([frame for frame in frames if len(frame)] or frames, ignore_index=True)

    def write_table(self, name: str, frame: pd.DataFrame) -> Path:
        """Writes `<name>.csv` whole into the folder, without the index, floats with all the digits they need.

        Text that a spreadsheet would take for a formula stands behind an apostrophe.
        """
        return self.write_file(f"{name}.csv", guarded(frame).to_csv(index=False).encode())

    def write_file(self, name: str, content: bytes) -> Path:
        """Writes a file whole into the folder, or into one within it, and returns its path.

        Raises:
            BusyError: If another study works in the folder.
            ValueError: If it has been claimed by another configuration.
            OSError: If the file cannot be written.
        """
        with self.writing():
            (self.path / name).parent.mkdir(exist_ok=True)
            write_whole(self.path / name, content)
        return self.path / name


def _as_json(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as JSON reads it back."""
    try:
        return json.loads(json.dumps(dict(config), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise TypeError(f"a study's configuration must be plain JSON values (finite numbers): {error}") from error


def differences(old: Any, new: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    """Dotted keys whose values differ, each with both values; an absent one is shown as `absent`."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [(prefix, old, new)]
    keys = list(old) + [key for key in new if key not in old]
    return [
        difference
        for key in keys
        for difference in differences(old.get(key, "absent"), new.get(key, "absent"), f"{prefix}.{key}".lstrip("."))
    ]
