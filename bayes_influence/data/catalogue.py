"""Where a name becomes a data set: one that is known by it, or the user's own, with all that depends on which it is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from math import prod
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.data.columns import Form
from bayes_influence.data.dataset import Dataset
from bayes_influence.data.images import IMAGE_SETS
from bayes_influence.data.known_set import KnownSet
from bayes_influence.data.own_function import OwnFunction
from bayes_influence.data.own_images import OwnImages
from bayes_influence.data.own_rows import OwnArrays, OwnTable
from bayes_influence.data.reading import checksum
from bayes_influence.data.tables import TABLES

CATALOGUE: dict[str, KnownSet] = {**TABLES, **IMAGE_SETS}
"""By name. A new table or image set is one entry in its kind's registry; a new kind is one file and one line here."""


TABLE_FILES = (".csv", ".tsv", ".txt", ".parquet")
"""Endings of files that hold a table."""

OWN = "or a file of the user's own: .csv, .parquet, .npz, a folder of images by class, or module:function"


def find_known(
    name: str,
    *,
    target: Sequence[str] = (),
    task: str | None = None,
    categorical: Sequence[str] = (),
    missing: str = "refuse",
    separator: str = ",",
) -> KnownSet:
    """The data set that a command names: one of the catalogue, or the user's own.

    Args:
        name: A key of `CATALOGUE`; or the path of a `.csv` or `.parquet` table, of an `.npz` with the arrays inputs and
            targets, or of a folder of images with one sub-folder per class; or `module:function`, see `OwnFunction`.
        target: Of a table: the columns that are predicted.
        task: What is predicted, see `Form`.
        categorical: Of a table: input columns that are categories although they look like numbers.
        missing: Of a table: `"refuse"` or `"impute"`.
        separator: Of a CSV table.

    Raises:
        ValueError: If there is none, the message lists the known ones; if something is said that does not apply; or
            as the file's kind refuses what it holds.
        FileNotFoundError: If the file is not there.
    """
    path = Path(name)
    if path.suffix.lower() in TABLE_FILES:
        form = Form(tuple(target), task, tuple(categorical), missing)
        return _table(path.resolve(), _stamp(path), form, "\t" if path.suffix == ".tsv" else separator)
    said = {"target": target, "categorical": categorical, "missing": missing != "refuse", "separator": separator != ","}
    for what in (what for what, value in said.items() if value):
        raise ValueError(f"{what} is said of tables in a file, and {name} is none; leave it out")
    if path.suffix.lower() == ".npz":
        return _arrays(path.resolve(), _stamp(path), task)
    if task is not None:
        raise ValueError(f"task is said of tables and arrays in a file, and {name} is none; leave it out")
    if name in CATALOGUE:
        return CATALOGUE[name]
    if path.is_dir():
        return _images(path.resolve(), checksum(path))
    if ":" in name:
        return OwnFunction.named(name)
    raise ValueError(f"unknown dataset {name!r}; known: {', '.join(CATALOGUE)}, {OWN}")


def file_of(name: str) -> Path | None:
    """The file or folder that a data set's name is the path of; None where it is no path."""
    path = Path(name)
    own = path.suffix.lower() in (*TABLE_FILES, ".npz") or (name not in CATALOGUE and path.is_dir())
    return path if own else None


def _stamp(path: Path) -> tuple[int, int]:
    """What changes with a file, as far as this process is concerned."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    return path.stat().st_mtime_ns, path.stat().st_size


@lru_cache(maxsize=4)
def _table(path: Path, stamp: tuple[int, int], form: Form, separator: str) -> OwnTable:
    return OwnTable.read(path, form, separator)


@lru_cache(maxsize=4)
def _arrays(path: Path, stamp: tuple[int, int], task: str | None) -> OwnArrays:
    return OwnArrays.read(path, task)


@lru_cache(maxsize=4)
def _images(path: Path, stamp: str) -> OwnImages:
    return OwnImages.read(path)


def outside_examples(name: str, dtype: torch.dtype, folder: str | os.PathLike[str] | None = None) -> Dataset | None:
    """Test examples from outside a data set's distribution, standardised as its own are; None where it names none.

    Args:
        name: Of the data set.
        dtype: Of the inputs.
        folder: Where data sets are kept, see `Source.contents`.

    Raises:
        FileNotFoundError: If a file is missing and cannot be downloaded.
    """
    own = CATALOGUE.get(name)
    if own is None or own.outside is None:
        return None
    other = find_known(own.outside).raw_split(dtype, folder).test
    unnamed = Dataset(other.inputs, other.targets, other.ids, other.name)
    return own.standardise(own.raw_split(dtype, folder).train, unnamed)[1]


def picture(data: Dataset, example: int) -> Float[Tensor, "channels height width"] | None:
    """One example as an image, None where it is none: its inputs, or those of a known table before standardisation.

    Args:
        data: Which example's.
        example: Its id.
    """
    if isinstance(data.inputs, Tensor) and data.inputs.ndim == 4:
        return data.at(example).inputs[0]
    table = TABLES.get(data.name)
    if table is None or table.picture is None or not isinstance(data.inputs, Tensor):
        return None
    if data.inputs.shape[1:].numel() != prod(table.picture):
        return None
    return table.examples().at(example).inputs[0].reshape(table.picture)
