"""What rows look like to a person who judges their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from bayes_influence.data.appearance import SHOWN_COLUMNS, Appearance, appearances
from bayes_influence.data.columns import words
from bayes_influence.data.dataset import Dataset

if TYPE_CHECKING:
    import pandas as pd


def looks_of(
    data: Dataset, ids: Sequence[int], frame: pd.DataFrame | None = None, target: str | None = None
) -> dict[int, Appearance]:
    """Every example by its id: a picture, or a row with the columns that stand out, in the table's own units.

    Args:
        data: The examples.
        ids: Which.
        frame: The table that they are rows of; their numbers as networks see them are told when not given.
        target: Its column with the labels.
    """
    found = dict(zip(ids, appearances(data, list(ids)), strict=True))
    if frame is None:
        return found
    inputs = frame.drop(columns=[target] if target else [])
    oddness = np.stack([_oddness(inputs[column]) for column in inputs.columns], axis=1)
    for row, look in found.items():
        order = np.argsort(-oddness[row], kind="stable")[:SHOWN_COLUMNS]
        told = [f"{inputs.columns[place]} = {_told(inputs.iloc[row, place])}" for place in order]
        found[row] = replace(look, picture=None, text=", ".join(told))
    return found


def _oddness(values: pd.Series) -> Float[np.ndarray, " n"]:
    """How far each value is from the others: of numbers in standard deviations, of words by how rare they are."""
    import pandas as pd

    if pd.api.types.is_numeric_dtype(values):
        numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
        spread = np.nanstd(numbers) or 1.0
        return np.nan_to_num(np.abs(numbers - np.nanmean(numbers)) / spread)
    named = pd.Series(words(values), dtype=object)
    shares = named.map(named.value_counts(normalize=True)).to_numpy(dtype=np.float64)
    return np.sqrt(1 / shares - 1)


def _told(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)
