"""Tables with a sub-population: one that is planted, and students in a survey of marriages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bayes_influence.data.dataset import Dataset

ROWS, FEATURES, MEMBERS = 1600, 8, 40
"""Of the planted table: its rows, its features beside the indicator, and those of the sub-population."""

OCCUPATIONS = ("student", "farming", "white-collar", "teacher", "managerial", "professional")
"""Of the survey's wives, as its codes 1 to 6 say."""


@dataclass(frozen=True, eq=False)
class DomainTable:
    """A table of two classes with a sub-population that one of its columns marks by 1, all others by 0.

    Attributes:
        data: All rows, raw.
        column: The indicator.
    """

    data: Dataset
    column: int

    @property
    def members(self) -> Tensor:
        """Positions of the sub-population."""
        return (self.data.inputs[:, self.column] == 1).nonzero()[:, 0]


def planted_table(seed: int) -> DomainTable:
    """Classes by a logistic rule on Gaussian features, a quarter of them 1; membership has no part in it."""
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(ROWS, FEATURES))
    rule = generator.normal(size=FEATURES)
    logits = 2 * features @ rule / np.linalg.norm(rule) - 1.6
    targets = generator.uniform(size=ROWS) < 1 / (1 + np.exp(-logits))
    member = np.zeros((ROWS, 1))
    member[generator.choice(ROWS, MEMBERS, replace=False)] = 1
    names = (*(f"x{column}" for column in range(FEATURES)), "member")
    return DomainTable(_table("planted", np.hstack([features, member]), targets, names), FEATURES)


def survey_table(seed: int) -> DomainTable:
    """6 366 wives (Fair 1978, as statsmodels ships them): whether they had an affair; the sub-population: 41 students.

    Args:
        seed: Has no part in it.
    """
    from statsmodels.datasets import fair  # here, because importing it takes long

    frame = fair.load_pandas().data
    numbers = frame.drop(columns=["occupation", "affairs"])
    codes = np.arange(1, 1 + len(OCCUPATIONS))
    occupations = frame["occupation"].to_numpy()[:, None] == codes
    inputs = np.hstack([numbers.to_numpy(dtype=float), occupations.astype(float)])
    names = (*map(str, numbers.columns), *OCCUPATIONS)
    return DomainTable(_table("survey", inputs, frame["affairs"].to_numpy() > 0, names), len(numbers.columns))


def _table(name: str, inputs: np.ndarray, targets: np.ndarray, names: tuple[str, ...]) -> Dataset:
    ids = torch.arange(len(targets))
    classes = torch.from_numpy(targets.astype(np.int64))
    return Dataset(torch.from_numpy(inputs), classes, ids, name, feature_names=names, class_names=("no", "yes"))


TABLES: dict[str, Callable[[int], DomainTable]] = {"planted": planted_table, "survey": survey_table}
"""By name, from a seed."""
