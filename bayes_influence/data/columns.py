"""What the columns of a table hold, and what is refused of them: each time with the column and the row."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

Task = Literal["classification", "labels", "regression"]
"""What is predicted: one class of several, several labels that are on or off, or real numbers."""

TASKS = get_args(Task)

Missing = Literal["refuse", "impute"]
"""What becomes of a missing input: an error, or the training rows' mean or most frequent category."""

MISSING = get_args(Missing)

MOST_CATEGORIES = 100
"""Different words in a column from which it must be said that they are categories."""

SHOWN = 5
"""Rows or columns that a message names at most."""


@dataclass(frozen=True)
class Form:
    """Which columns of a table are what.

    Attributes:
        target: The columns that are predicted.
        task: A key of `TASKS`; told from the target columns when not given, where they leave no doubt.
        categorical: Input columns that are categories although they look like numbers.
        missing: A key of `MISSING`.

    Raises:
        ValueError: If there is no target, or a word is unknown.
    """

    target: tuple[str, ...]
    task: str | None = None
    categorical: tuple[str, ...] = ()
    missing: str = "refuse"

    def __post_init__(self) -> None:
        if not self.target:
            raise ValueError("a table needs to know its target: name the column that is predicted (target=, --target)")
        if len(set(self.target)) != len(self.target):
            raise ValueError(f"each target column once, got {', '.join(self.target)}")
        for what, value, known in (("task", self.task, TASKS), ("missing", self.missing, MISSING)):
            if value is not None and value not in known:
                raise ValueError(f"unknown {what} {value!r}; known: {', '.join(known)}")


def checked_form(frame: pd.DataFrame, form: Form, name: str) -> Form:
    """The form of a whole table, its task told, once everything was looked at that can be wrong with the table.

    Rows that occur more than once are logged as a warning.

    Args:
        frame: All rows; its index numbers them in messages.
        form: What is said about the columns.
        name: What the data are called in messages.

    Raises:
        ValueError: If a column is missing, empty, mixed, or not what the form says; if values are missing and that is
            refused; or if the target is constant, missing, or of a class with one member.
    """
    _check_columns(frame, form, name)
    task = _task_of(frame, form, name)
    _check_target(frame, form.target, task, name)
    for column in map(str, frame.columns):
        if column not in form.target:
            _check_input(frame[column], column in form.categorical, form.missing, name)
    twice = frame.index[frame.duplicated(keep="first")]
    if len(twice):
        logger.warning(
            "%s: %d of %d rows repeat an earlier row (%s): twins share their influence, and one in the test part has "
            "been seen in training",
            name,
            len(twice),
            len(frame),
            ", ".join(map(str, twice[:SHOWN])) + (", ..." if len(twice) > SHOWN else ""),
        )
    return replace(form, task=task)


def _check_columns(frame: pd.DataFrame, form: Form, name: str) -> None:
    """Refuses a table without rows, without the columns that the form names, or without any input."""
    columns = [str(column) for column in frame.columns]
    if len(frame) == 0:
        raise ValueError(f"{name}: the table has no rows")
    if len(set(columns)) != len(columns):
        raise ValueError(f"{name}: two columns are called {next(c for c in columns if columns.count(c) > 1)!r}")
    for column in (*form.target, *form.categorical):
        if column not in columns:
            raise ValueError(f"{name}: there is no column {column!r}; there are {', '.join(columns)}")
    if set(columns) == set(form.target):
        raise ValueError(f"{name}: there is no column beside the target {', '.join(form.target)}")
    empty = [column for column in columns if frame[column].isna().all()]
    if empty:
        raise ValueError(f"{name}: column {empty[0]!r} holds no value at all; drop it")


def _check_input(values: pd.Series, categorical: bool, missing: str, name: str) -> None:
    """Refuses an input column that cannot be encoded, or that names rows rather than describes them."""
    if missing == "refuse":
        filled(values, None, name)
    if categorical:
        return
    if not is_text(values, name):
        numbers(values.dropna(), name)
    elif (count := values.nunique()) > MOST_CATEGORIES:
        raise ValueError(
            f"{name}: column {values.name!r} holds {count} different words in {len(values)} rows, at most "
            f"{MOST_CATEGORIES} are taken for categories; drop it, mend it (is a comma a decimal point?), or say that "
            "it is categorical (--categorical)"
        )


def _task_of(frame: pd.DataFrame, form: Form, name: str) -> str:
    """What is predicted: as said, or told from the target columns.

    Text, booleans and numbers of two values are classes; numbers with fractions are real; several columns of 0 and 1
    are labels.

    Raises:
        ValueError: If whole numbers might be classes or amounts, or the columns do not fit what was said.
    """
    columns = [frame[column].dropna() for column in form.target]
    binary = [not is_text(values, name) and set(numbers(values, name)) <= {0.0, 1.0} for values in columns]
    if form.task == "labels" and not all(binary):
        wrong = form.target[binary.index(False)]
        raise ValueError(f"{name}: labels are 0 or 1, but column {wrong!r} holds other values")
    if form.task == "classification" and len(columns) > 1:
        raise ValueError(f"{name}: classes stand in one target column, got {len(columns)}; take task='labels'")
    if form.task is not None:
        return form.task
    if len(columns) > 1:
        if all(binary):
            return "labels"
        if any(is_text(values, name) for values in columns):
            raise ValueError(f"{name}: several target columns must all hold 0 and 1, or all real numbers")
        return "regression"
    (values,) = columns
    if is_text(values, name) or values.nunique() <= 2:
        return "classification"
    found = numbers(values, name)
    if (found % 1 == 0).all():
        raise ValueError(
            f"{name}: the target {form.target[0]!r} holds {len(set(found))} different whole numbers, which may be "
            f"classes or amounts; say task='classification' or task='regression' (--task)"
        )
    return "regression"


def _check_target(frame: pd.DataFrame, target: tuple[str, ...], task: str, name: str) -> None:
    """Refuses targets that are missing or constant, and classes with one member.

    Raises:
        ValueError: Naming the column, and the row or the value.
    """
    for column in target:
        values = frame[column]
        absent = values.index[values.isna()]
        if len(absent):
            raise ValueError(
                f"{name}: the target {column!r} is missing in {len(absent)} of {len(values)} rows (the first is row "
                f"{absent[0]}); drop these rows"
            )
        if (values == values.iloc[0]).all():
            raise ValueError(f"{name}: the target {column!r} is {values.iloc[0]} in every row; nothing can be learned")
        if task == "classification":
            counts = values.value_counts()
            if counts.iloc[-1] < 2:
                raise ValueError(
                    f"{name}: the class {counts.index[-1]} of {column!r} has one member, at least 2 are needed to "
                    "leave one out; add rows, drop the class, or say task='regression' (--task) if these are amounts"
                )


def is_text(values: pd.Series, name: str) -> bool:
    """Whether a column holds words rather than numbers; booleans are numbers.

    Raises:
        ValueError: If it holds both, naming the first word.
    """
    import pandas as pd

    if pd.api.types.is_bool_dtype(values) or pd.api.types.is_numeric_dtype(values):
        return False
    if isinstance(values.dtype, pd.CategoricalDtype):
        return True
    given = values.dropna()
    parsed = pd.to_numeric(given, errors="coerce")
    if parsed.isna().all():
        return True
    odd = given.index[parsed.isna()]
    if len(odd) == 0:
        return bool(given.map(lambda value: isinstance(value, str)).all())
    raise ValueError(
        f"{name}: column {values.name!r} mixes numbers and text ({len(odd)} of {len(given)} values are text, the first "
        f"is {given[odd[0]]!r} in row {odd[0]}); mend these, leave them empty for a missing value, or say that the "
        "column is categorical (--categorical)"
    )


def numbers(values: pd.Series, name: str) -> np.ndarray:
    """(n,) a column of numbers as float64.

    Raises:
        ValueError: If a value is no finite number, naming it.
    """
    import pandas as pd

    found = pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    bad = ~np.isfinite(found)
    if bad.any():
        at = int(bad.argmax())
        value = values.iloc[at]
        found = value.item() if isinstance(value, np.generic) else value
        raise ValueError(
            f"{name}: column {values.name!r} must hold finite numbers, got {found!r} in row {values.index[at]}"
        )
    return found


def words(values: pd.Series) -> list[str]:
    """A column of categories as words: a number without a fraction as that whole number."""
    return [_word(value) for value in values]


def _word(value: object) -> str:
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def filled(values: pd.Series, fill: float | str | None, name: str) -> pd.Series:
    """A column without missing values.

    Args:
        values: The column.
        fill: What stands for a missing value; None where there may be none.
        name: What the data are called.

    Raises:
        ValueError: If a value is missing where there may be none, naming the row.
    """
    absent = values.isna()
    if not absent.any():
        return values
    if fill is None:
        raise ValueError(
            f"{name}: column {values.name!r} misses {int(absent.sum())} of {len(values)} values (the first in row "
            f"{values.index[absent][0]}); drop these rows, or train with missing='impute' (--missing impute)"
        )
    return values.astype(object).where(~absent, fill) if isinstance(fill, str) else values.fillna(fill)
