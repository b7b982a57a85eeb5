"""Figures that are stored with what they were drawn of, so that they can be drawn again for another page."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from bayes_influence.data.sealed import DamagedFileError
from bayes_influence.experiments.store.cells import CellResult, decode_cell, encode_cell

DRAWINGS = "drawings"
"""The folder of a study in which its figures are stored to be drawn again."""

PACKAGE = __name__.partition(".")[0]

RECIPE = "recipe"
"""The array that holds how arguments are put together, as JSON."""


@dataclass(frozen=True, eq=False)
class Drawing:
    """A figure as a function of this library that draws it, and its arguments.

    Attributes:
        draw: Makes the figure.
        arguments: Tables, arrays, texts, numbers, members of enumerations, and mappings, sequences and dataclasses of
            such.
    """

    draw: Callable[..., Figure]
    arguments: tuple[Any, ...]

    def figure(self) -> Figure:
        """Draws it."""
        return self.draw(*self.arguments)

    def encode(self) -> bytes:
        """The content of its file, in the form of a cell's.

        Raises:
            TypeError: If the function is none of this library, or an argument is of another kind.
        """
        parts = _Parts({}, {})
        recipe = {"draw": _place(self.draw), "arguments": [parts.apart(value) for value in self.arguments]}
        text = np.frombuffer(json.dumps(recipe).encode(), dtype=np.uint8)
        return encode_cell(CellResult(parts.tables, {**parts.arrays, RECIPE: text}))

    @classmethod
    def decode(cls, content: bytes) -> Drawing:
        """The inverse of `encode`.

        Raises:
            DamagedFileError: If the content is truncated, damaged, or no drawing.
            ValueError: If it was drawn by a function that this version does not have.
        """
        cell = decode_cell(content)
        if RECIPE not in cell.arrays:
            raise DamagedFileError("it is no drawing")
        recipe = json.loads(np.asarray(cell.arrays[RECIPE]).tobytes())
        parts = _Parts(dict(cell.tables), {name: np.asarray(array) for name, array in cell.arrays.items()})
        try:
            arguments = tuple(parts.together(value) for value in recipe["arguments"])
        except KeyError as error:
            raise ValueError(
                f"it was stored by another version, which wrote no {error}; run the study's command again"
            ) from error
        return cls(_at_place(recipe["draw"]), arguments)


def stored_drawings(folder: str | Path) -> dict[str, Drawing]:
    """The drawings in a study's folder, by the names of the figures.

    Raises:
        FileNotFoundError: If there are none.
        ValueError: If one is damaged, or was drawn by another version.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder")
    files = sorted((Path(folder) / DRAWINGS).glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(
            f"{folder} has no figures that can be drawn again: either none belong to what it holds, or they were drawn "
            "before figures were stored, and its command stores them when it is run once more; what is measured is kept"
        )
    found = {}
    for file in files:
        try:
            found[file.stem] = Drawing.decode(file.read_bytes())
        except DamagedFileError as error:
            raise ValueError(f"{file} is damaged: {error}; run the study's command once more") from error
    return found


@dataclass(frozen=True)
class _Parts:
    """What arguments are made of: tables and arrays by number, and the rest as JSON."""

    tables: dict[str, pd.DataFrame]
    arrays: dict[str, np.ndarray]

    def apart(self, value: Any) -> dict[str, Any]:
        """A value as JSON, its tables and arrays put aside."""
        if isinstance(value, pd.DataFrame):
            frame = value.reset_index(drop=True)
            mixed = [name for name in frame if frame[name].dtype == object and not _is_text(frame[name])]
            cells = {str(name): [self.apart(cell) for cell in frame[name]] for name in mixed}
            number = _put(self.tables, frame.drop(columns=mixed))
            return {"table": number, "columns": [str(name) for name in frame], "mixed": cells}
        if isinstance(value, np.generic):
            return {"value": value.item()}
        if isinstance(value, np.ndarray):
            return {"array": _put(self.arrays, value)}
        if isinstance(value, Tensor):
            return {"tensor": _put(self.arrays, value.detach().cpu().numpy())}
        if isinstance(value, Enum):
            return {"member": _place(type(value)), "name": value.name}
        if value is None or isinstance(value, str | bool | int | float):
            return {"value": value}
        if isinstance(value, Mapping):
            return {"mapping": [[self.apart(key), self.apart(part)] for key, part in value.items()]}
        if isinstance(value, tuple | list):
            return {"sequence": [self.apart(part) for part in value]}
        if is_dataclass(value) and not isinstance(value, type):
            own = {one.name: self.apart(getattr(value, one.name)) for one in fields(value) if one.init}
            return {"made": _place(type(value)), "fields": own}
        raise TypeError(f"a figure that can be drawn again is made of tables, arrays and texts, got {value!r}")

    def together(self, stored: Mapping[str, Any]) -> Any:
        """The inverse; sequences come back as tuples."""
        ways: dict[str, Callable[[Any], Any]] = {
            "table": lambda number: self._frame(number, stored["columns"], stored["mixed"]),
            "array": lambda number: self.arrays[number],
            "tensor": lambda number: torch.from_numpy(self.arrays[number].copy()),
            "value": lambda value: value,
            "mapping": lambda pairs: {self.together(key): self.together(part) for key, part in pairs},
            "sequence": lambda parts: tuple(self.together(part) for part in parts),
            "member": lambda place: _at_place(place)[stored["name"]],
            "made": lambda place: _at_place(place)(
                **{name: self.together(part) for name, part in stored["fields"].items()}
            ),
        }
        kind = next(iter(stored))
        return ways[kind](stored[kind])

    def _frame(self, number: str, columns: list[str], mixed: Mapping[str, list[Any]]) -> pd.DataFrame:
        whole = self.tables[number].copy()
        for name, cells in mixed.items():
            whole[name] = pd.Series([self.together(cell) for cell in cells], dtype=object)
        return whole[columns]


def _is_text(column: pd.Series) -> bool:
    """Whether a column holds words alone, or nothing."""
    return all(isinstance(cell, str) or cell is None or cell is pd.NA or cell != cell for cell in column)


def _put(aside: dict[str, Any], value: Any) -> str:
    number = str(len(aside))
    aside[number] = value
    return number


def _place(what: Any) -> str:
    """Module and name of a function or class of this library."""
    if not what.__module__.startswith(f"{PACKAGE}.") or "<" in what.__qualname__:
        raise TypeError(f"only what this library names can draw a figure again, got {what.__module__}:{what.__name__}")
    return f"{what.__module__}:{what.__qualname__}"


def _at_place(place: str) -> Any:
    module, _, name = place.partition(":")
    if not module.startswith(f"{PACKAGE}."):
        raise ValueError(f"{place} is nothing of this library, and is not asked to draw")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"this version has no {place}, which drew the figure; run the study's command once more with this one"
        ) from error
