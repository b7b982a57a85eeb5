"""Tables and arrays of the user's own, in memory: encoded and standardised on their training part."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from bayes_influence.arguments import kind_of, shown
from bayes_influence.data.columns import TASKS, Form, checked_form
from bayes_influence.data.dataset import Dataset, Split
from bayes_influence.data.encoding import Encoding
from bayes_influence.data.reading import read_arrays, read_table
from bayes_influence.data.standardisation import standardise, standardise_targets
from bayes_influence.data.tables import SPLIT_SEED, Rows, random_split

if TYPE_CHECKING:
    import pandas as pd

USUAL_STEPS = 10_000
"""Steps that a training takes when nothing is said, but no more passes than those of the known tables, and 10."""


def usual_epochs(examples: int, batch_size: int = Rows.batch_size) -> int:
    """Passes over so many examples when nothing is said."""
    return max(10, min(Rows.epochs, USUAL_STEPS * batch_size // examples))


@dataclass(frozen=True, kw_only=True)
class OwnTable(Rows):
    """A table in a file, or a frame.

    Attributes:
        name: What it is called.
        form: Which columns are what, checked.
        frame: Its rows.
    """

    name: str
    form: Form
    frame: pd.DataFrame

    @classmethod
    def read(cls, path: Path, form: Form, separator: str = ",") -> OwnTable:
        """The table in a CSV or Parquet file.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is no table, or the table is not what the form says; see `read_table`, `checked_form`.
        """
        frame = read_table(path, separator)
        checked = checked_form(frame, form, path.name)
        return cls(name=path.stem, form=checked, frame=frame, epochs=usual_epochs(len(frame)))

    @classmethod
    def of_frame(cls, frame: Any, target: str | Sequence[str], name: str, **said: Any) -> OwnTable:
        """The table in a frame of pandas, or of what turns into one.

        Args:
            frame: The rows, which are numbered from 0 in their order.
            target: The columns that are predicted.
            name: What it is called.
            **said: The other parts of a `Form`.

        Raises:
            TypeError: If it is no frame.
            ValueError: As `checked_form`.
        """
        import pandas as pd

        found = frame.to_pandas() if hasattr(frame, "to_pandas") else frame
        if not isinstance(found, pd.DataFrame):
            raise TypeError(f"{name} must be a frame of pandas or polars, got {kind_of(frame)}")
        rows = found.reset_index(drop=True).rename(columns=str)
        form = Form((target,) if isinstance(target, str) else tuple(target), **said)
        return cls(name=name, form=checked_form(rows, form, name), frame=rows, epochs=usual_epochs(max(1, len(rows))))

    @property
    def task(self) -> str:
        """As the form says."""
        return str(self.form.task)

    @property
    def n_targets(self) -> int:
        """The target columns."""
        return len(self.form.target)

    @property
    def target_names(self) -> tuple[str, ...]:
        """The target columns."""
        return self.form.target

    def examples(self, dtype: torch.dtype = torch.float64) -> Dataset:
        """All rows, encoded by themselves and not standardised."""
        encoding = Encoding.learn(self.frame, self.form, self.name)
        return encoding.dataset(self.frame, range(len(self.frame)), self.name, standardised=False).to(dtype=dtype)

    @cached_property
    def train_rows(self) -> list[int]:
        """The rows of the training part: four fifths, and those with a category that these would not know."""
        whole = self.examples()
        parts = random_split(whole, seed=SPLIT_SEED)
        train, test = parts.train.ids.tolist(), parts.test.ids.tolist()
        known = Encoding.learn(self.frame.iloc[train], self.form, self.name)
        new = ~known.knows(self.frame.iloc[test])
        return train + [row for row, moved in zip(test, new, strict=True) if moved]

    def encoding(self) -> Encoding:
        """Learned on the training part."""
        return Encoding.learn(self.frame.iloc[self.train_rows], self.form, self.name)

    def split(self, dtype: torch.dtype, folder: str | os.PathLike[str] | None = None) -> Split:
        """A fifth of the rows as the test part, all encoded as the training part says."""
        rows = self.train_rows
        return self._encoded(rows, sorted(set(range(len(self.frame))) - set(rows))).to(dtype)

    def all_examples(self, dtype: torch.dtype, folder: str | os.PathLike[str] | None = None) -> Dataset:
        """All rows, encoded and standardised as they themselves say."""
        encoding = Encoding.learn(self.frame, self.form, self.name)
        return encoding.dataset(self.frame, range(len(self.frame)), self.name).to(dtype=dtype)

    def left_out(self, ids: int | Iterable[int], dtype: torch.dtype = torch.float64) -> Split:
        """These rows as the test part, encoded as the others say, which train."""
        rows = [ids] if isinstance(ids, int) else list(ids)
        return self._encoded(sorted(set(range(len(self.frame))) - set(rows)), rows).to(dtype)

    def _encoded(self, train: list[int], test: list[int]) -> _Parts:
        encoding = Encoding.learn(self.frame.iloc[train], self.form, self.name)
        return _Parts(*(encoding.dataset(self.frame.iloc[rows], rows, self.name) for rows in (train, test)))


@dataclass(frozen=True)
class _Parts:
    train: Dataset
    test: Dataset

    def to(self, dtype: torch.dtype) -> Split:
        return Split(self.train.to(dtype=dtype), self.test.to(dtype=dtype))


@dataclass(frozen=True, kw_only=True)
class OwnArrays(Rows):
    """Inputs and targets as arrays.

    Attributes:
        whole: All examples, raw.
        said: What is predicted, where the targets do not say it alone.
    """

    whole: Dataset
    said: str | None = None

    @classmethod
    def read(cls, path: Path, task: str | None = None) -> OwnArrays:
        """The arrays `inputs` and `targets` of an `.npz` file, see `arrays_dataset`.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it holds no such arrays.
        """
        whole = arrays_dataset(*read_arrays(path), path.stem, task)
        shape = tuple(whole.inputs.shape[1:])
        images = shape if len(shape) == 3 else None
        return cls(whole=whole, said=task, epochs=usual_epochs(len(whole)), image_shape=images)

    @property
    def task(self) -> str:
        """As it was said; else as the targets say: class indices, labels where all are 0 or 1, or real numbers."""
        if self.said is not None or not self.whole.targets.is_floating_point():
            return self.said or "classification"
        targets = self.whole.targets
        return "labels" if bool(((targets == 0) | (targets == 1)).all()) else "regression"

    @property
    def n_targets(self) -> int:
        """Columns of the targets."""
        return 1 if self.whole.targets.ndim == 1 else self.whole.targets.shape[1]

    def examples(self, dtype: torch.dtype = torch.float64) -> Dataset:
        """All of them."""
        return self.whole.to(dtype=dtype)

    def standardise(self, train: Dataset, *others: Dataset) -> tuple[Dataset, ...]:
        """Images by channel, other inputs by feature; real targets, too."""
        parts = standardise(train, *others, by="channel" if train.inputs.ndim == 4 else "feature")
        return standardise_targets(*parts) if self.task == "regression" else parts


def arrays_dataset(inputs: Any, targets: Any, name: str = "arrays", task: str | None = None) -> Dataset:
    """Arrays as a `Dataset` in float64.

    Args:
        inputs: (n, ...) numbers.
        targets: (n,) whole numbers from 0 on or words for classes; (n, K) of 0 and 1 for labels; real numbers, (n,) or
            (n, K), for a regression.
        name: What the data are called.
        task: To take whole numbers for amounts (`"regression"`) or a column of 0 and 1 for a label (`"labels"`).

    Raises:
        ValueError: If the task is unknown or does not fit the targets, or a target is constant.
    """
    if task is not None and task not in TASKS:
        raise ValueError(f"unknown task {task!r}; known: {', '.join(TASKS)}")
    classes, codes = _classes_of_words(targets, name, task)
    data, goals = torch.as_tensor(inputs), torch.as_tensor(targets if codes is None else codes)
    labels = goals.ndim > 1 and bool(((goals == 0) | (goals == 1)).all())
    whole = not goals.is_floating_point()
    if task in ("regression", "labels") or (task is None and (labels or not whole)):
        goals = goals.reshape(len(goals), -1).double()
    elif not whole:
        raise ValueError(f"{name}: classes are whole numbers from 0 on, got targets of {goals.dtype}")
    if task == "labels" and not bool(((goals == 0) | (goals == 1)).all()):
        raise ValueError(f"{name}: labels are 0 or 1, but the targets hold other values")
    if len(goals) and bool((goals == goals[:1]).reshape(len(goals), -1).all(0).any()):
        raise ValueError(f"{name}: a target is constant; nothing can be learned")
    found = Dataset(data.double(), goals, torch.arange(len(goals)), name, class_names=classes)
    if not goals.is_floating_point():
        found.check_classes()
    return found


def _classes_of_words(targets: Any, name: str, task: str | None) -> tuple[tuple[str, ...], Any]:
    """Names of the classes and the class of each target where targets are words; nothing and None of numbers."""
    words = None if isinstance(targets, Tensor) else np.asarray(targets)
    if words is None or words.dtype.kind not in "USO":
        return (), None
    if task in ("regression", "labels") or words.ndim != 1:
        raise ValueError(
            f"{name}: words are classes, one for each of the rows, but the targets begin with {shown(words.flat[0])}, "
            f"their shape is {words.shape} and the task is {task or 'not said'}; give numbers for anything else"
        )
    names, codes = np.unique([str(word) for word in words], return_inverse=True)
    return tuple(names.tolist()), codes
