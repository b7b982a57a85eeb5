"""`Dataset`: examples with identities that survive every subset, split and shuffle."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import DataLoader

from bayes_influence.arguments import checked_move, kind_of
from bayes_influence.data.batch import Batch
from bayes_influence.data.checks import (
    check_batch_size,
    check_class_counts,
    check_finite,
    check_lengths,
    check_tensors,
    check_weights,
    checked_names,
    checked_targets,
    shapes_of,
)
from bayes_influence.data.examples import pairs_of, stacked_pairs
from bayes_influence.data.identities import example_ids, example_positions
from bayes_influence.torch_internals import tree_leaves, tree_map


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples in a fixed order, each with an identity of its own.

    Attributes:
        inputs: A tensor of shape (n, ...), or a tuple or dict of such tensors.
        targets: Class indices of shape (n,), or (n, ...) of sequences, whole numbers kept as int64; or real targets of
            shape (n, ...).
        ids: (n,) int64, from any list of whole numbers. Where an example stands in its source; kept by `select`, `at`
            and `without`, so that an influence score always belongs to an id and never to a position.
        name: What the data are called in messages and files.
        feature_names: One name per input column, empty if they have none.
        class_names: One name per class, empty for regression.
        weights: (n,) real numbers, finite, at least 0 and not all 0: the factors w_i of the losses in
            J = (1/n) sum_i w_i l_i + s R, where n is the number of examples, whatever the weights sum to. Removing
            example i removes w_i l_i. None where all are 1.

    Raises:
        TypeError: If inputs or targets are no tensors, ids no whole numbers, names no strings, or targets booleans.
        ValueError: If the parts disagree in length, an id occurs twice, an input is not finite, or targets, names or
            weights are not as above; see `bayes_influence.data.checks`.
    """

    inputs: Any
    targets: Tensor
    ids: Int[Tensor, " n"]
    name: str = "unnamed"
    feature_names: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    weights: Float[Tensor, " n"] | None = None

    def __post_init__(self) -> None:
        check_tensors(self.name, self.inputs, self.targets)
        object.__setattr__(self, "ids", example_ids(self.ids))
        self._check_ids()
        self._check_inputs()
        columns = self.inputs.shape[1] if isinstance(self.inputs, Tensor) and self.inputs.ndim == 2 else None
        object.__setattr__(self, "feature_names", checked_names(self.name, self.feature_names, "feature", columns))
        object.__setattr__(self, "class_names", checked_names(self.name, self.class_names, "class"))
        targets = checked_targets(self.name, self.targets, self.ids, self.class_names)
        object.__setattr__(self, "targets", targets)
        self._check_weights()

    def _check_weights(self) -> None:
        if self.weights is not None:
            check_weights(self.name, self.weights, self.ids)

    def _check_inputs(self) -> None:
        check_lengths(self.name, self.inputs, targets=self.targets, ids=self.ids)
        for leaf in tree_leaves(self.inputs):
            check_finite(self.name, leaf, "inputs", self.ids)

    def _check_ids(self) -> None:
        if len(self.ids) == 0:
            raise ValueError(f"{self.name}: a dataset needs at least one example, got none")
        if len(torch.unique(self.ids)) != len(self.ids):
            raise ValueError(f"{self.name}: example ids must be unique; drop the duplicates or number the rows anew")

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        kind = "real targets" if self.targets.is_floating_point() else f"{self.n_classes} classes"
        weighted = "" if self.weights is None else ", weighted"
        return f"Dataset({self.name!r}, {len(self)} examples of {shapes_of(self.inputs)}, {kind}{weighted})"

    @classmethod
    def of_examples(cls, examples: Iterable[tuple[Any, Any]], name: str = "unnamed", **parts: Any) -> Dataset:
        """The (input, target) pairs of a torch dataset, or of any other iterable, each at the place that is its id.

        Args:
            examples: The pairs; all are read, and stacked as torch's `default_collate` does.
            name: What the data are called.
            **parts: Further parts of the dataset, such as `class_names`.

        Raises:
            TypeError: If these are no examples, or no tensors, arrays or numbers.
            ValueError: If there is none, or they differ in shape.
        """
        pairs = list(pairs_of(examples, name))
        inputs, targets = stacked_pairs(pairs, name)
        return cls(inputs, targets, torch.arange(len(pairs)), name, **parts)

    @classmethod
    def from_numpy(cls, inputs: Any, targets: Any, name: str = "arrays", *, task: str | None = None) -> Dataset:
        """Arrays of numbers, raw and in float64, ids numbering the rows; see `arrays_dataset`."""
        from bayes_influence.data.own_rows import arrays_dataset  # builds on this file

        return arrays_dataset(inputs, targets, name, task)

    @classmethod
    def from_dataframe(
        cls,
        frame: Any,
        target: str | Sequence[str],
        name: str = "table",
        *,
        task: str | None = None,
        categorical: Sequence[str] = (),
        missing: str = "refuse",
    ) -> Dataset:
        """A frame of pandas, or of polars, raw (see `standardise`): categories one-hot, ids numbering the rows.

        Args:
            frame: The rows.
            target: The columns that are predicted.
            name: What the data are called.
            task: What is predicted, where the target leaves it open, see `Form`.
            categorical: Input columns that are categories although they look like numbers.
            missing: `"refuse"`, or `"impute"` by mean or most frequent category.

        Raises:
            TypeError: If it is no frame.
            ValueError: As `checked_form`.
        """
        from bayes_influence.data.own_rows import OwnTable  # builds on this file

        said = {"task": task, "categorical": tuple(categorical), "missing": missing}
        return OwnTable.of_frame(frame, target, name, **said).examples()

    @property
    def n_classes(self) -> int:
        """How many classes the targets can take.

        Raises:
            TypeError: If the targets are real numbers.
        """
        if self.targets.is_floating_point():
            raise TypeError(f"{self.name} has real targets; only classification sets have n_classes")
        return len(self.class_names) or int(self.targets.max()) + 1

    def check_classes(self, n_outputs: int | None = None, fewest: int = 2) -> None:
        """Refuses classes that cannot be learned or left out, before long work starts; says nothing about sequences.

        Args:
            n_outputs: Number of outputs of the network that is to be trained, if it should be compared.
            fewest: How many members every class needs; of fewer than two, leaving one out would leave none.

        Raises:
            TypeError: If the targets are real numbers.
            ValueError: If a class has fewer members, or the network another number of outputs than there are classes.
        """
        if self.targets.ndim == 1:
            check_class_counts(self.name, self.targets, self.n_classes, self.class_names, n_outputs, fewest)

    def batch(self) -> Batch:
        """All examples as one batch."""
        return Batch(self.inputs, self.targets, self.weights)

    def batches(self, size: int) -> Iterator[Batch]:
        """The examples in order, `size` at a time (the last batch may be smaller).

        Raises:
            TypeError: If the size is no whole number.
            ValueError: If the size is not positive.
        """
        check_batch_size(size)
        return (self._take(slice(start, start + size)).batch() for start in range(0, len(self), size))

    def in_batches(self, size: int) -> Sequence[Batch]:
        """The same batches by number, again and again."""
        return list(self.batches(size))

    def gathered(self, positions: Int[Tensor, "..."]) -> Batch:
        """The examples at positions of any shape, which takes the place of the leading axis; one may come twice."""
        return tree_map(lambda leaf: leaf[positions.to(leaf.device)], self.batch())

    @property
    def example(self) -> Batch:
        """The first example as a batch of one: what the others look like."""
        return self._take(slice(0, 1)).batch()

    @property
    def holds_inputs(self) -> bool:
        """Whether the examples are in memory; otherwise targets are looked at where they pass."""
        return True

    @property
    def holds_targets(self) -> bool:
        """Whether all targets are in memory; otherwise they are looked at where they pass."""
        return True

    def identity(self) -> dict[str, Any]:
        """All that numbers depend on, by name: not what the data are called, nor their classes and columns."""
        return {"inputs": self.inputs, "targets": self.targets, "ids": self.ids, "weights": self.weights}

    def _take(self, index: Any) -> Dataset:
        """Some of the examples, none twice: what was checked of all of them need not be checked again."""
        weights = None if self.weights is None else self.weights[index]
        inputs = tree_map(lambda leaf: leaf[index], self.inputs)
        return self._but(inputs=inputs, targets=self.targets[index], ids=self.ids[index], weights=weights)

    def _but(self, **changes: Any) -> Dataset:
        """The same with other parts, which are not checked."""
        part = copy.copy(self)
        for name, value in changes.items():
            object.__setattr__(part, name, value)
        return part

    def with_inputs(self, inputs: Any) -> Dataset:
        """The same examples with other inputs, such as their features.

        Raises:
            TypeError, ValueError: If they are no tensors, there are not as many, or one is not finite.
        """
        check_tensors(self.name, inputs, self.targets)
        part = self._but(inputs=inputs)
        part._check_inputs()
        return part

    def select(self, positions: int | Iterable[int] | Tensor) -> Dataset:
        """The examples at the given positions, in the given order.

        Raises:
            TypeError: If the positions are not whole numbers; see `example_positions`.
            ValueError: If no position is given, one twice, or one outside 0..n - 1.
        """
        part = self._take(example_positions(positions, len(self)).to(self.ids.device))
        part._check_ids()
        return part

    def positions(self, ids: int | Iterable[int] | Tensor) -> Int[Tensor, " k"]:
        """Where the examples with these ids stand, one position for every id given.

        Raises:
            TypeError: If the ids are not whole numbers; see `example_ids`.
            ValueError: If an id is not in the dataset.
        """
        wanted = example_ids(ids).to(self.ids.device)
        order = torch.argsort(self.ids)
        found = torch.searchsorted(self.ids[order], wanted).clamp(max=len(self) - 1)
        positions = order[found]
        missing = wanted[self.ids[positions] != wanted]
        if len(missing):
            raise ValueError(
                f"{self.name}: no example has id {missing.tolist()}; ids run from {int(self.ids.min())} "
                f"to {int(self.ids.max())} ({len(self)} examples)"
            )
        return positions

    def at(self, ids: int | Iterable[int] | Tensor) -> Dataset:
        """The examples with the given ids, in the given order.

        Raises:
            TypeError: If the ids are not whole numbers; see `example_ids`.
            ValueError: If no id is given, one twice, or one that is not in the dataset.
        """
        return self.select(self.positions(ids))

    def without(self, ids: int | Iterable[int] | Tensor) -> Dataset:
        """Every example but those with the given ids, among which one may be given twice.

        Raises:
            TypeError: If the ids are not whole numbers; see `example_ids`.
            ValueError: If an id is not in the dataset, or no example is left.
        """
        keep = torch.ones(len(self), dtype=torch.bool, device=self.ids.device)
        keep[self.positions(ids)] = False
        if not keep.any():
            raise ValueError(f"{self.name}: removing {int((~keep).sum())} examples leaves none")
        return self._take(keep)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Dataset:
        """The same examples on another device; `dtype` applies to real tensors only."""
        dtype, device = checked_move(dtype, device)

        def move(leaf: Tensor) -> Tensor:
            return leaf.to(device=device, dtype=dtype if leaf.is_floating_point() else None)

        part = self._but(
            inputs=tree_map(move, self.inputs),
            targets=move(self.targets),
            ids=self.ids.to(device=device),
            weights=None if self.weights is None else move(self.weights),
        )
        part._check_inputs()  # a narrower dtype may overflow
        return part


def check_dataset(value: Any, what: str) -> None:
    """Refuses what is no `Dataset` where one is needed.

    Args:
        value: What came.
        what: What it should be the data set of, such as "the training examples".

    Raises:
        TypeError: If it is something else; the message says how to make a `Dataset` of it.
    """
    if isinstance(value, Split):
        raise TypeError(f"{what} must be a Dataset, got a Split; take its .train or its .test")
    if isinstance(value, DataLoader):
        raise TypeError(f"{what} must be a Dataset, got a DataLoader; take Dataset.of_examples(loader.dataset)")
    if not isinstance(value, Dataset):
        raise TypeError(
            f"{what} must be a Dataset of this library, got {kind_of(value)}; take Dataset.of_examples(...) of (input, "
            f"target) pairs, or Dataset(inputs, targets, ids) of tensors"
        )


@dataclass(frozen=True, eq=False)
class Split:
    """A training and a test part of one source; no id is in both.

    Raises:
        TypeError: If a part is no `Dataset`.
        ValueError: If the parts share an example.
    """

    train: Dataset
    test: Dataset

    def __post_init__(self) -> None:
        check_dataset(self.train, "the training part")
        check_dataset(self.test, "the test part")
        shared = set(self.train.ids.tolist()) & set(self.test.ids.tolist())
        if shared:
            raise ValueError(f"{self.train.name}: ids {sorted(shared)[:5]} are in the training and in the test part")
