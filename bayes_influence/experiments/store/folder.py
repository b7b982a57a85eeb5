"""A study's folder: its configuration, its finished cells, and the tables and figures made of them."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from bayes_influence.experiments.store.cells import CellResult, CorruptCellError, checked_key, decode_cell, encode_cell
from bayes_influence.experiments.store.files import PARTIAL, write_whole
from bayes_influence.experiments.store.versions import environment

logger = logging.getLogger(__name__)

CONFIG = "config.json"
CELLS = "cells"
CELL_SUFFIX = ".safetensors"
CORRUPT_SUFFIX = ".corrupt"
ABANDONED_SECONDS = 24 * 3600
"""Age from which a partial file cannot be another process's work in progress."""


class StudyFolder:
    """A folder that belongs to one configuration and holds its cells, each written whole as it finishes.

    `config.json` has the configuration and the versions it was first run with; `cells/<key>.safetensors` is one cell.

    Args:
        path: The folder; created when it does not exist, continued when it holds the same configuration.
        config: Everything needed to repeat the study, as JSON can hold it.

    Attributes:
        path: The folder.
        config: The configuration, as it was read back from JSON (tuples are lists).

    Raises:
        TypeError: If the configuration cannot be written as JSON.
        ValueError: If the folder belongs to another configuration, or is not empty and not a study's.
        OSError: If the folder cannot be written. All of these are raised before any work is done.
    """

    def __init__(self, path: str | Path, config: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.config = _as_json(config)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / f"probe{PARTIAL}"
            probe.write_bytes(b"")
            probe.unlink(missing_ok=True)
        except OSError as error:
            raise OSError(
                f"the study folder {self.path} cannot be written ({error.strerror}); choose another one"
            ) from error
        if (self.path / CONFIG).exists():
            self._check_same_study()
        else:
            self._start()
        self._cells.mkdir(exist_ok=True)
        self._sweep()

    @classmethod
    def open(cls, path: str | Path) -> StudyFolder:
        """The study that a folder holds, with the configuration it holds.

        Raises:
            FileNotFoundError: If the folder holds no study.
            ValueError: If its `config.json` is damaged.
        """
        if not (Path(path) / CONFIG).exists():
            raise FileNotFoundError(f"{path} holds no study: there is no {CONFIG} in it")
        return cls(path, _read_config(Path(path) / CONFIG)["config"])

    @property
    def _cells(self) -> Path:
        return self.path / CELLS

    def _start(self) -> None:
        """Claims an empty folder for this configuration."""
        strangers = sorted(item.name for item in self.path.iterdir() if not item.name.endswith(PARTIAL))
        if strangers:
            raise ValueError(
                f"{self.path} is not a study's folder (no {CONFIG}) but holds {strangers[:3]}; "
                "choose a new or an empty folder"
            )
        record = {"config": self.config, "versions": environment()}
        write_whole(self.path / CONFIG, json.dumps(record, indent=2).encode())

    def _check_same_study(self) -> None:
        """Refuses another configuration; other versions are only worth a warning."""
        record = _read_config(self.path / CONFIG)
        differences = _differences(record["config"], self.config)
        if differences:
            listed = "; ".join(f"{key} is {old} there and {new} here" for key, old, new in differences)
            raise ValueError(
                f"the study folder {self.path} belongs to another configuration: {listed}. "
                "Choose another folder, or the same configuration to continue"
            )
        for name, old, new in _differences(record["versions"], environment()):
            logger.warning("%s was started with %s %s, and continues with %s", self.path, name, old, new)

    def _sweep(self) -> None:
        """Deletes partial files that a killed process left behind."""
        for partial in self.path.rglob(f"*{PARTIAL}"):
            if time.time() - partial.stat().st_mtime > ABANDONED_SECONDS:
                partial.unlink(missing_ok=True)

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
        except CorruptCellError as error:
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
            ValueError, TypeError: If the key cannot be a file name, or the content cannot be stored exactly.
            OSError: If the file cannot be written.
        """
        write_whole(self._file(key), encode_cell(CellResult(tables, arrays or {})))

    def load_cell(self, key: str) -> CellResult:
        """A stored cell.

        Raises:
            KeyError: If no such cell is stored.
            CorruptCellError: If it is truncated or does not match its checksum.
        """
        path = self._file(key)
        if not path.exists():
            raise KeyError(f"{self.path} has no cell {key!r}; it has {len(self.keys())} cells")
        try:
            return decode_cell(path.read_bytes())
        except CorruptCellError as error:
            raise CorruptCellError(f"cell {key!r} in {path} cannot be used: {error}; run the study again") from error

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
            CorruptCellError: If a cell cannot be read.
        """
        cells = (self.load_cell(key).tables for key in (self.keys() if keys is None else keys))
        frames = [tables[name] for tables in cells if name in tables]
        if not frames:
            raise KeyError(f"no stored cell of {self.path} has a table {name!r}")
        return pd.concat(frames, ignore_index=True)

    def write_table(self, name: str, frame: pd.DataFrame) -> Path:
        """Writes `<name>.csv` whole into the folder, without the index, floats with all the digits they need."""
        return self.write_file(f"{name}.csv", frame.to_csv(index=False).encode())

    def write_file(self, name: str, content: bytes) -> Path:
        """Writes a file whole into the folder and returns its path."""
        write_whole(self.path / name, content)
        return self.path / name


def _as_json(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as JSON reads it back."""
    try:
        return json.loads(json.dumps(dict(config), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise TypeError(f"a study's configuration must be plain JSON values (finite numbers): {error}") from error


def _read_config(path: Path) -> dict[str, Any]:
    """The content of a `config.json`."""
    try:
        record = json.loads(path.read_bytes())
        return {"config": record["config"], "versions": record["versions"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); restore it, or choose another folder") from error


def _differences(old: Any, new: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    """Dotted keys whose values differ, each with both values; an absent one is shown as `absent`."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [(prefix, old, new)]
    keys = list(old) + [key for key in new if key not in old]
    return [
        difference
        for key in keys
        for difference in _differences(old.get(key, "absent"), new.get(key, "absent"), f"{prefix}.{key}".lstrip("."))
    ]
