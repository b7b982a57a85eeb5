"""`KnownSet`: everything that depends on which data set it is, in one object."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from bayes_influence.data.dataset import Dataset, Split


@dataclass(frozen=True, kw_only=True)
class KnownSet(ABC):
    """A data set, public or the user's own: how it is loaded and split, and what training takes when nothing is said.

    A kind of data sets is a subclass with defaults of its own; a data set is one entry in that kind's registry.

    Attributes:
        epochs: Passes over its training examples.
        batch_size: Examples in a batch.
        picture: (channels, height, width) in which one example's inputs can be drawn; None where they are no image.
        image_shape: (channels, height, width) of the inputs; None where they are no images.
        outside: Name of the set whose test examples are out of its distribution; None where there is none.
    """

    epochs: int
    batch_size: int
    picture: tuple[int, int, int] | None = None
    image_shape: tuple[int, int, int] | None = None
    outside: str | None = None

    @property
    def task(self) -> str:
        """What is predicted: `"classification"`, `"labels"` or `"regression"`."""
        return "classification"

    @property
    def n_targets(self) -> int:
        """How many labels or real numbers are predicted of an example; 1 for a class."""
        return 1

    @property
    def files(self) -> tuple[str, ...] | None:
        """The file of every example, by id; None where examples are in no files of their own."""
        return None

    @abstractmethod
    def raw_split(self, dtype: torch.dtype, folder: str | os.PathLike[str] | None = None) -> Split:
        """Training and test examples as they were published.

        Args:
            dtype: Of the inputs.
            folder: Where data sets are kept, see `Source.contents`.
        """

    @abstractmethod
    def standardise(self, train: Dataset, *others: Dataset) -> tuple[Dataset, ...]:
        """The parts, standardised on the first as inputs of this kind are."""

    def split(self, dtype: torch.dtype, folder: str | os.PathLike[str] | None = None) -> Split:
        """Training and test examples, standardised on the former.

        Args:
            dtype: Of the inputs.
            folder: Where data sets are kept, see `Source.contents`.
        """
        parts = self.raw_split(dtype, folder)
        return Split(*self.standardise(parts.train, parts.test))

    def all_examples(self, dtype: torch.dtype, folder: str | os.PathLike[str] | None = None) -> Dataset:
        """All examples that have no test part to be held against: the training part, standardised on itself.

        Args:
            dtype: Of the inputs.
            folder: Where data sets are kept, see `Source.contents`.
        """
        (found,) = self.standardise(self.raw_split(dtype, folder).train)
        return found
