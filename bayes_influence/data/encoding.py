"""From a table of columns to numbers: learned on the training rows, kept as JSON, applied to new rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from bayes_influence.data.columns import Form, filled, is_text, numbers, words
from bayes_influence.data.dataset import Dataset

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Column:
    """How an input column becomes numbers.

    Attributes:
        name: Of the column.
        categories: Its values, each of which becomes an entry that is 0 or 1; none where the column holds numbers.
        fill: What stands for a missing value: the mean, or the most frequent category; None where that is refused.
        means: Of its entries over the training rows.
        scales: Their standard deviations there; 1 for an entry that is constant.
    """

    name: str
    categories: tuple[str, ...]
    fill: float | str | None
    means: tuple[float, ...]
    scales: tuple[float, ...]

    @property
    def features(self) -> tuple[str, ...]:
        """What its entries are called."""
        return tuple(f"{self.name}={value}" for value in self.categories) or (self.name,)


@dataclass(frozen=True)
class Encoding:
    """What the training rows of a table say about how a row becomes inputs and targets.

    Attributes:
        columns: The input columns, in their order.
        target: The target columns.
        task: `"classification"`, `"labels"` or `"regression"`.
        class_names: One per class; none for the others.
        target_means: Of real targets, over the training rows.
        target_scales: Their standard deviations there.
    """

    columns: tuple[Column, ...]
    target: tuple[str, ...]
    task: str
    class_names: tuple[str, ...]
    target_means: tuple[float, ...]
    target_scales: tuple[float, ...]

    @classmethod
    def learn(cls, frame: pd.DataFrame, form: Form, name: str = "table") -> Encoding:
        """The encoding of a table's training rows.

        Args:
            frame: The rows.
            form: Of the whole table, see `checked_form`.
            name: What the data are called in messages.
        """
        inputs = [str(column) for column in frame.columns if str(column) not in form.target]
        columns = tuple(_learned(frame[column], column in form.categorical, form.missing, name) for column in inputs)
        means: tuple[float, ...] = ()
        scales: tuple[float, ...] = ()
        if form.task == "regression":
            means, scales = _moments(_real_targets(frame, form.target, name))
        classes = tuple(sorted(set(words(frame[form.target[0]])))) if form.task == "classification" else ()
        return cls(columns, form.target, str(form.task), _in_order(classes), means, scales)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """One per entry of an input."""
        return tuple(feature for column in self.columns for feature in column.features)

    def inputs(self, frame: pd.DataFrame, name: str = "table", *, standardised: bool = True) -> Tensor:
        """(n, entries) the inputs of some rows, float64.

        Args:
            frame: Rows with at least the input columns.
            name: What they are called in messages.
            standardised: Whether means are subtracted and scales divided by.

        Raises:
            ValueError: If a column is not there, holds a category that no training row has, text where numbers are
                expected, or a missing value where these are refused.
        """
        absent = [column.name for column in self.columns if column.name not in frame.columns]
        if absent:
            raise ValueError(
                f"{name}: there is no column {absent[0]!r}, which the training rows have; there are "
                f"{', '.join(map(str, frame.columns))}"
            )
        parts = [_entries(frame[column.name], column, name) for column in self.columns]
        if standardised:
            pairs = zip(parts, self.columns, strict=True)
            parts = [(part - np.array(column.means)) / np.array(column.scales) for part, column in pairs]
        return torch.from_numpy(np.concatenate(parts, axis=1))

    def knows(self, frame: pd.DataFrame) -> np.ndarray:
        """(n,) whether every category of a row was seen in training; a missing value counts as seen."""
        known = np.ones(len(frame), dtype=bool)
        for column in self.columns:
            if column.categories:
                values = frame[column.name]
                known &= values.isna().to_numpy() | np.isin(words(values), column.categories)
        return known

    def targets(self, frame: pd.DataFrame, name: str = "table", *, standardised: bool = True) -> Tensor:
        """Class indices (n,), labels (n, K) as real numbers, or real targets (n, K).

        Args:
            frame: Rows with the target columns.
            name: What they are called in messages.
            standardised: Whether real targets are.

        Raises:
            ValueError: If a target is missing, or a class that no training row has.
        """
        absent = [column for column in self.target if column not in frame.columns]
        if absent:
            raise ValueError(
                f"{name}: there is no column {absent[0]!r} with the targets; influence on a loss needs the target of "
                f"every row"
            )
        if self.task != "classification":
            values = _real_targets(frame, self.target, name)
            if self.task == "regression" and standardised:
                values = (values - np.array(self.target_means)) / np.array(self.target_scales)
            return torch.from_numpy(values)
        return torch.from_numpy(_indices(frame[self.target[0]], self.class_names, self.target[0], "class", name))

    def dataset(
        self, frame: pd.DataFrame, ids: Sequence[int] | Tensor, name: str = "table", *, standardised: bool = True
    ) -> Dataset:
        """Some rows as a `Dataset` in float64, see `inputs` and `targets`."""
        return Dataset(
            self.inputs(frame, name, standardised=standardised),
            self.targets(frame, name, standardised=standardised),
            torch.as_tensor(ids),
            name,
            feature_names=self.feature_names,
            class_names=self.class_names,
        )

    def to_config(self) -> dict[str, Any]:
        """The encoding as JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Encoding:
        """The encoding that `to_config` described, also after JSON."""
        columns = tuple(Column(**{name: _tupled(value) for name, value in one.items()}) for one in config["columns"])
        return cls(**{name: _tupled(value) for name, value in config.items()} | {"columns": columns})


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _in_order(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Class names as numbers where they all are, else as words."""
    try:
        return tuple(sorted(classes, key=float))
    except ValueError:
        return classes


def _learned(values: pd.Series, categorical: bool, missing: str, name: str) -> Column:
    """What the training rows say about an input column."""
    column = str(values.name)
    given = values.dropna()
    fill: float | str | None = None
    categories: tuple[str, ...] = ()
    if categorical or is_text(values, name):
        counted = sorted(words(given))
        categories = tuple(dict.fromkeys(counted))
        fill = max(categories, key=counted.count) if missing == "impute" else None
    elif missing == "impute":
        fill = float(numbers(given, name).mean())
    found = Column(column, categories, fill, (), ())
    means, scales = _moments(_entries(values, found, name))
    return replace(found, means=means, scales=scales)


def _moments(entries: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Means and standard deviations over the rows, 1 for what is constant."""
    constant = entries.max(axis=0) == entries.min(axis=0)
    return tuple(entries.mean(axis=0).tolist()), tuple(np.where(constant, 1.0, entries.std(axis=0)).tolist())


def _entries(values: pd.Series, column: Column, name: str) -> np.ndarray:
    """(n, entries) of one column, not standardised."""
    values = filled(values, column.fill, name)
    if not column.categories:
        return numbers(values, name)[:, None]
    indices = _indices(values, column.categories, column.name, "category", name)
    return np.eye(len(column.categories))[indices]


def _indices(values: pd.Series, known: tuple[str, ...], column: str, what: str, name: str) -> np.ndarray:
    places = {value: index for index, value in enumerate(known)}
    for row, value in zip(values.index, words(values), strict=True):
        if value not in places:
            raise ValueError(
                f"{name}: column {column!r} holds {value!r} in row {row}, a {what} that no training row has; known: "
                f"{', '.join(known[:10])}{', ...' if len(known) > 10 else ''}"
            )
    return np.array([places[value] for value in words(values)], dtype=np.int64)


def _real_targets(frame: pd.DataFrame, target: tuple[str, ...], name: str) -> np.ndarray:
    return np.stack([numbers(filled(frame[column], None, name), name) for column in target], axis=1)
