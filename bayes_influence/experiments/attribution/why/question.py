"""What is asked of a network about its predictions: measurements, and training rows ranked by what they do to them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bayes_influence.experiments.attribution.why.asked import AskedRun
from bayes_influence.influence.influence import Influence

FOR_AND_AGAINST = {"for": 1, "against": -1}
"""Rows that hold a prediction or a certainty up, so that removing them raises loss or uncertainty; and the others."""

UP_AND_DOWN = {"up": -1, "down": 1}
"""Rows that hold a predicted number up, so that removing them lowers it; and the others."""

EVIDENCE = ["test", "measurement", "kind", "rank", "train_id", "train_target", "removal"]
"""Columns of the rows that are named."""


@dataclass(frozen=True, eq=False)
class Effects:
    """Predicted changes of one measurement of every test example, by removal of each training example.

    Attributes:
        removal: (t, n).
        kinds: What rows are called, and the sign that those have whose removal changes it most in that direction.
    """

    removal: Float[Tensor, "t n"]
    kinds: dict[str, int]

    def first(self, test: int, kind: str, top: int) -> Int[Tensor, " k"]:
        """Positions of the first training examples of a kind for one test example; fewer where there are no more."""
        removal = self.removal[test] * self.kinds[kind]
        strongest = torch.argsort(removal, descending=True, stable=True)[:top]
        return strongest[removal[strongest] > 0]


@dataclass(frozen=True, eq=False)
class Question(ABC):
    """Why a network predicts what it predicts of some test examples.

    Attributes:
        asked: Network and examples.
        positions: Where the test examples stand in the run's test part.
        top: Rows that are named of each kind; the first for a prediction are removed together.
    """

    asked: AskedRun
    positions: list[int]
    top: int

    @abstractmethod
    def effects(self, influence: Influence) -> dict[str, Effects]:
        """Of every measurement, by name."""

    @abstractmethod
    def described(self) -> pd.DataFrame:
        """What is predicted, and how surely."""

    @abstractmethod
    def removed(self, effects: dict[str, Effects]) -> pd.DataFrame:
        """What removing the first rows together does to the predictions, estimated and retrained."""

    @abstractmethod
    def target_of(self, place: int) -> str:
        """A training example's target in words."""

    @abstractmethod
    def title(self, described: pd.DataFrame) -> str:
        """Of the table of a test example, from its rows of `described`."""

    @abstractmethod
    def sentence(self, removed: pd.Series) -> str:
        """What a row of `removed` says."""

    @abstractmethod
    def heading(self, measurement: str, kind: str) -> str:
        """Of the column of a kind of rows."""

    @property
    @abstractmethod
    def caption(self) -> str:
        """Of every table: what the numbers behind the rows are."""

    def evidence(self, effects: dict[str, Effects]) -> pd.DataFrame:
        """One row per test example, measurement, kind and rank, see `Explanation`."""
        rows = []
        for name, effect in effects.items():
            for index, test in enumerate(self.positions):
                for kind in effect.kinds:
                    for rank, place in enumerate(effect.first(index, kind, self.top).tolist(), start=1):
                        known = {"test": test, "measurement": name, "kind": kind, "rank": rank}
                        example = {
                            "train_id": int(self.asked.train.ids[place]),
                            "train_target": self.target_of(place),
                            "removal": float(effect.removal[index, place]),
                        }
                        rows.append(known | example)
        return pd.DataFrame(rows, columns=EVIDENCE)
