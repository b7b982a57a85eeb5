"""Tables of numbers: the classification sets that scikit-learn ships, and their splits."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from bayes_influence.arguments import check_dtype, checked_seed
from bayes_influence.data.dataset import Dataset, Split, check_dataset
from bayes_influence.data.known_set import KnownSet
from bayes_influence.data.standardisation import standardise, target_units

SPLIT_SEED = 0
"""Of the test part of a table that is loaded by name: always the same, so that trainings can be compared."""


@dataclass(frozen=True, kw_only=True)
class Rows(KnownSet):
    """A data set in memory, of which any example can be left out."""

    epochs: int = 300
    batch_size: int = 32

    @abstractmethod
    def examples(self, dtype: torch.dtype = torch.float64) -> Dataset:
        """All of them, raw, ids numbering the rows in their order."""

    def raw_split(self, dtype: torch.dtype, folder: str | os.PathLike[str] | None = None) -> Split:
        """A fifth of the rows as the test part, the same ones always."""
        return random_split(self.examples(dtype), seed=SPLIT_SEED)

    def standardise(self, train: Dataset, *others: Dataset) -> tuple[Dataset, ...]:
        """By feature."""
        return standardise(train, *others)

    def all_examples(self, dtype: torch.dtype, folder: str | os.PathLike[str] | None = None) -> Dataset:
        """All rows, standardised on themselves."""
        (found,) = self.standardise(self.examples(dtype))
        return found

    @property
    def target_names(self) -> tuple[str, ...]:
        """What is predicted, by name."""
        return tuple(f"target {number}" for number in range(self.n_targets))

    def target_units(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of real targets in the training part, with which they are standardised."""
        train = self.split(torch.float64).train
        raw = self.examples()
        return target_units(raw.at(train.ids))

    def left_out(self, ids: int | Iterable[int], dtype: torch.dtype = torch.float64) -> Split:
        """These examples as the test part and all others as the training part, standardised on the latter."""
        whole = self.examples(dtype)
        return Split(*self.standardise(whole.without(ids), whole.at(ids)))


@dataclass(frozen=True, kw_only=True)
class Table(Rows):
    """A classification set that scikit-learn ships.

    Attributes:
        name: What it is called here.
        loader: What scikit-learn's function is called.
    """

    name: str
    loader: str

    def examples(self, dtype: torch.dtype = torch.float64) -> Dataset:
        """All of them, raw, ids numbering the rows in their order."""
        check_dtype(dtype)
        from sklearn import datasets  # here, because importing it takes longer than all of this library

        table = getattr(datasets, self.loader)()
        dataset = Dataset(
            inputs=torch.as_tensor(table.data, dtype=dtype),
            targets=torch.as_tensor(table.target, dtype=torch.int64),
            ids=torch.arange(len(table.target)),
            name=self.name,
            feature_names=tuple(map(str, table.feature_names)),
            class_names=tuple(map(str, table.target_names)),
        )
        dataset.check_classes()
        return dataset


TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        Table(name="iris", loader="load_iris"),
        Table(name="wine", loader="load_wine"),
        Table(name="breast-cancer", loader="load_breast_cancer"),
        Table(name="digits", loader="load_digits", picture=(1, 8, 8)),
    )
}
"""What `load_table` knows, by name."""


def find_table(name: str) -> Table:
    """The table of this name.

    Raises:
        ValueError: If there is none; the message lists the known ones.
    """
    if not isinstance(name, str) or name not in TABLES:
        raise ValueError(f"unknown table {name!r}; known: {', '.join(sorted(TABLES))}")
    return TABLES[name]


def load_table(name: str, dtype: torch.dtype = torch.float64) -> Dataset:
    """One of scikit-learn's classification sets, raw (see `standardise`), ids numbering its rows in their order.

    Args:
        name: A key of `TABLES`.
        dtype: Of the inputs.

    Raises:
        ValueError: If the name is unknown; the message lists the known ones.
    """
    return find_table(name).examples(dtype)


def leave_out(dataset: Dataset, ids: int | Iterable[int] | Tensor) -> Split:
    """The examples with the given ids as the test part, all others as the training part, standardised on the latter.

    Raises:
        ValueError: If an id is unknown, a class has a single member, or nothing is left to train on.
    """
    check_dataset(dataset, "what is split")
    if dataset.class_names:
        dataset.check_classes()
    train, test = standardise(dataset.without(ids), dataset.at(ids))
    return Split(train, test)


def hold_out(dataset: Dataset, test_fraction: float = 0.2, seed: int = 0) -> Split:
    """A random test part that keeps the classes' proportions, standardised on the training part.

    Args:
        dataset: One table of real features; the test part of a regression is drawn from all of it.
        test_fraction: Share of the examples that goes to the test part, strictly between 0 and 1.
        seed: The same seed gives the same split.

    Raises:
        TypeError: If the inputs are not one real tensor.
        ValueError: If the fraction or the seed is out of range, or a part is left without examples, or without a member
            of some class.
    """
    split = random_split(dataset, test_fraction, seed)
    return Split(*standardise(split.train, split.test))


def random_split(dataset: Dataset, test_fraction: float = 0.2, seed: int = 0) -> Split:
    """`hold_out` without the standardisation.

    Raises:
        ValueError: As `hold_out`.
    """
    check_dataset(dataset, "what is split")
    if isinstance(test_fraction, bool) or not isinstance(test_fraction, float) or not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction must lie strictly between 0 and 1, got {test_fraction!r}")
    checked_seed(seed)
    classes = None if dataset.targets.is_floating_point() or dataset.targets.ndim > 1 else dataset.targets
    least = 1 if classes is None else dataset.n_classes
    if classes is not None:
        dataset.check_classes()
    tests = ceil(test_fraction * len(dataset))
    if not least <= tests <= len(dataset) - least:
        raise ValueError(
            f"{dataset.name}: test_fraction={test_fraction} makes {tests} of {len(dataset)} examples the test part; "
            f"each part needs at least {least}, one of every class"
        )
    from sklearn.model_selection import train_test_split

    rows = train_test_split(
        range(len(dataset)),
        test_size=tests,
        random_state=seed,
        stratify=None if classes is None else classes.cpu().numpy(),
    )
    split = Split(*(dataset.select(part) for part in rows))
    if classes is not None:
        _check_every_class(split, least)
    return split


def _check_every_class(split: Split, n_classes: int) -> None:
    for what, part in (("training", split.train), ("test", split.test)):
        absent = sorted(set(range(n_classes)) - set(part.targets.tolist()))
        if absent:
            raise ValueError(
                f"{part.name}: the {what} part has no member of class {absent[0]}; take another test_fraction, or drop "
                f"classes that are so rare"
            )
