"""What one cell of a study yields, and its form on disk: one safetensors file, floats bit for bit."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import load, save
from torch import Tensor

from bayes_influence.data.sealed import UNSEALED, DamagedFileError, seal, sealed_header

MAX_KEY_LENGTH = 200
"""Longest cell key: with its endings it must fit into the 255 bytes that file systems allow a name."""


@dataclass(frozen=True, eq=False)
class CellResult:
    """What one cell of a study yields.

    Attributes:
        tables: Data frames by name; columns of numbers, booleans or strings, and the default index.
        arrays: Arrays by name. Tensors are taken, too, and come back as arrays.
    """

    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray | Tensor] = field(default_factory=dict)


def cell_key(**fields: object) -> str:
    """The name of a cell from what distinguishes it: `cell_key(scheme="swa", seed=3)` is `"scheme=swa,seed=3"`.

    Raises:
        ValueError: If the key cannot be a file name.
    """
    return checked_key(",".join(f"{name}={value}" for name, value in fields.items()))


def checked_key(key: str) -> str:
    """The key itself, if it can be a file name on any system.

    Raises:
        ValueError: If it is empty, too long, or has other characters than letters, digits and `._=,+-`.
    """
    if not re.fullmatch(r"[A-Za-z0-9=,+_-][A-Za-z0-9=,+_.-]*", key) or len(key) > MAX_KEY_LENGTH:
        raise ValueError(
            f"a cell's key becomes a file name: 1 to {MAX_KEY_LENGTH} letters, digits or any of '._=,+-', "
            f"the first one not a dot; got {key!r}"
        )
    return key


def encode_cell(result: CellResult) -> bytes:
    """The content of a cell's file.

    Numbers are stored as bytes of their own dtype, so they come back exactly, NaN and infinity included; strings and
    the order of the columns are in the header, as is a SHA-256 of the whole file.

    Raises:
        ValueError: If a table has an index of its own, a repeated column, or a name holds a slash.
        TypeError: If a column or array holds something else than numbers, booleans or strings.
    """
    tensors: dict[str, np.ndarray] = {}
    layout: dict[str, Any] = {}
    for name, frame in result.tables.items():
        layout[name] = _encode_table(name, frame, tensors)
    for name, array in result.arrays.items():
        plain = array.detach().cpu().numpy() if isinstance(array, Tensor) else np.asarray(array)
        tensors[f"array/{name}"] = _storable(plain, f"array {name!r}")
    # One entry only: safetensors writes several in no fixed order, and equal cells should be equal files.
    return seal(save(tensors, metadata={"cell": f"{UNSEALED} {json.dumps(layout)}"}))


def decode_cell(content: bytes) -> CellResult:
    """The inverse of `encode_cell`.

    Raises:
        DamagedFileError: If the content is truncated, not a cell, or does not match its checksum.
    """
    header = sealed_header(content)
    if "cell" not in header:
        raise DamagedFileError(f"it is no cell, but holds {sorted(header)}")
    layout, tensors = json.loads(header["cell"][len(UNSEALED) :]), load(content)
    return CellResult(
        tables={name: _decode_table(name, spec, tensors) for name, spec in layout.items()},
        arrays={name.removeprefix("array/"): value for name, value in tensors.items() if name.startswith("array/")},
    )


def _encode_table(name: str, frame: pd.DataFrame, tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    """Adds the frame's columns of numbers to `tensors` and returns what else it needs to be rebuilt."""
    if not frame.index.equals(pd.RangeIndex(len(frame))):
        raise ValueError(f"table {name!r} has an index of its own, which is not stored; call reset_index() first")
    columns = [str(column) for column in frame.columns]
    if "/" in name or len(set(columns)) < len(columns):
        raise ValueError(f"table {name!r}: its name must not hold '/', and its columns must differ, got {columns}")
    text: dict[str, Any] = {}
    for column, (_, series) in zip(columns, frame.items(), strict=True):
        if pd.api.types.is_string_dtype(series.dtype) or series.dtype == object:
            text[column] = {"dtype": str(series.dtype), "values": _strings(series, f"column {column!r} of {name!r}")}
        else:
            tensors[f"table/{name}/{column}"] = _storable(series.to_numpy(), f"column {column!r} of {name!r}")
    return {"columns": columns, "text": text}


def _decode_table(name: str, spec: dict[str, Any], tensors: dict[str, np.ndarray]) -> pd.DataFrame:
    """Rebuilds a frame from its columns of numbers and strings, in their order."""
    text = spec["text"]
    return pd.DataFrame(
        {
            column: pd.Series(text[column]["values"], dtype=text[column]["dtype"])
            if column in text
            else tensors[f"table/{name}/{column}"]
            for column in spec["columns"]
        }
    )


def _strings(series: pd.Series, what: str) -> list[str | None]:
    """The values of a text column, None where one is missing."""
    values = [None if value is None or value is pd.NA or value != value else value for value in series]
    wrong = [value for value in values if value is not None and not isinstance(value, str)]
    if wrong:
        raise TypeError(f"{what} mixes strings with {type(wrong[0]).__name__}; make it one kind")
    return values


def _storable(array: np.ndarray, what: str) -> np.ndarray:
    """The array in C order, if its numbers can be stored exactly."""
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise TypeError(f"{what} must hold booleans, integers or real numbers of at most 64 bits, got {array.dtype}")
    return np.array(array, order="C")
