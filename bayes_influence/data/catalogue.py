"""Every data set that a command or a study knows by name, with all that depends on which one it is."""

from __future__ import annotations

import os
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.data.dataset import Dataset
from bayes_influence.data.images import IMAGE_SETS
from bayes_influence.data.known_set import KnownSet
from bayes_influence.data.tables import TABLES

CATALOGUE: dict[str, KnownSet] = {**TABLES, **IMAGE_SETS}
"""By name. A new table or image set is one entry in its kind's registry; a new kind is one file and one line here."""


def find_known(name: str) -> KnownSet:
    """The data set of this name.

    Raises:
        ValueError: If there is none; the message lists the known ones.
    """
    if name not in CATALOGUE:
        raise ValueError(f"unknown dataset {name!r}; known: {', '.join(CATALOGUE)}")
    return CATALOGUE[name]


def outside_examples(name: str, dtype: torch.dtype, folder: str | os.PathLike[str] | None = None) -> Dataset | None:
    """Test examples from outside a data set's distribution, standardised as its own are; None where it names none.

    Args:
        name: Of the data set.
        dtype: Of the inputs.
        folder: Where data sets are kept, see `Source.contents`.

    Raises:
        FileNotFoundError: If a file is missing and cannot be downloaded.
    """
    own = find_known(name)
    if own.outside is None:
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
