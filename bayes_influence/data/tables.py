"""Tables of numbers: the classification sets that scikit-learn ships, and their splits."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from bayes_influence.data.dataset import Dataset, Split
from bayes_influence.data.standardisation import standardise

TABLES: dict[str, str] = {
    "iris": "load_iris",
    "wine": "load_wine",
    "breast-cancer": "load_breast_cancer",
    "digits": "load_digits",
}
"""What `load_table` knows: name on the command line, and scikit-learn's loader."""


def load_table(name: str, dtype: torch.dtype = torch.float64) -> Dataset:
    """One of scikit-learn's classification sets, raw (see `standardise`), ids numbering its rows in their order.

    Args:
        name: A key of `TABLES`.
        dtype: Of the inputs.

    Raises:
        ValueError: If the name is unknown; the message lists the known ones.
    """
    if name not in TABLES:
        raise ValueError(f"unknown dataset {name!r}; known: {', '.join(sorted(TABLES))}")
    from sklearn import datasets  # here, because importing it takes longer than all of this library

    table = getattr(datasets, TABLES[name])()
    dataset = Dataset(
        inputs=torch.as_tensor(table.data, dtype=dtype),
        targets=torch.as_tensor(table.target, dtype=torch.int64),
        ids=torch.arange(len(table.target)),
        name=name,
        feature_names=tuple(map(str, table.feature_names)),
        class_names=tuple(map(str, table.target_names)),
    )
    dataset.check_classes()
    return dataset


def leave_out(dataset: Dataset, ids: int | Iterable[int] | Tensor) -> Split:
    """The examples with the given ids as the test part, all others as the training part, standardised on the latter.

    Raises:
        ValueError: If an id is unknown, a class has a single member, or nothing is left to train on.
    """
    if dataset.class_names:
        dataset.check_classes()
    train, test = standardise(dataset.without(ids), dataset.at(ids))
    return Split(train, test)


def hold_out(dataset: Dataset, test_fraction: float = 0.2, seed: int = 0) -> Split:
    """A random test part that keeps the classes' proportions, standardised on the training part.

    Args:
        dataset: A classification set.
        test_fraction: Share of the examples that goes to the test part, strictly between 0 and 1.
        seed: The same seed gives the same split.

    Raises:
        ValueError: If the fraction is out of range or leaves a part without a member of some class.
    """
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction must lie strictly between 0 and 1, got {test_fraction}")
    dataset.check_classes()
    from sklearn.model_selection import train_test_split

    train_ids, test_ids = train_test_split(
        dataset.ids.cpu().numpy(), test_size=test_fraction, random_state=seed, stratify=dataset.targets.cpu().numpy()
    )
    train, test = standardise(dataset.at(torch.from_numpy(train_ids)), dataset.at(torch.from_numpy(test_ids)))
    return Split(train, test)
