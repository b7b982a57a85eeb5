"""`StreamedDataset`: examples that stay where they are, and pass in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import ceil
from typing import Any, overload

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import default_collate

from bayes_influence.data.batch import Batch
from bayes_influence.data.checks import check_batch_size, check_finite, checked_names, checked_targets, shapes_of
from bayes_influence.data.dataset import Dataset
from bayes_influence.data.identities import example_ids
from bayes_influence.data.stream import Parts, Stream, split_batch
from bayes_influence.torch_internals import tree_leaves, tree_map


class StreamedDataset(Dataset):
    """A dataset whose inputs are read, example by example, whenever they are needed.

    It is taken wherever a `Dataset` is. An example's id is its position in the source, whatever order a loader would
    have asked for. Memory is that of a batch, of the ids, and of the targets of what was read. Asking for `inputs`, or
    for `batch()`, reads everything into memory at once.

    Args:
        stream: The source.
        ids: (n,) of the examples; their positions in the source when not given.
        class_names: One name per class.
        weights: (n,) the losses' factors.

    Raises:
        ValueError: If ids or weights are not one per example.
    """

    stream: Stream
    _positions: Int[Tensor, " n"]
    _dtype: torch.dtype | None
    _device: torch.device | None

    def __init__(
        self,
        stream: Stream,
        ids: Iterable[int] | Tensor | None = None,
        class_names: Iterable[str] = (),
        weights: Tensor | None = None,
    ) -> None:
        found = torch.arange(len(stream)) if ids is None else example_ids(ids)
        if len(found) != len(stream):
            raise ValueError(f"{stream.name}: ids must be one per example, {len(stream)}, got {len(found)}")
        parts = {
            "stream": stream,
            "ids": found,
            "name": stream.name,
            "feature_names": (),
            "class_names": checked_names(stream.name, class_names, "class"),
            "weights": weights,
            "_positions": torch.arange(len(stream)),
            "_dtype": None,
            "_device": None,
        }
        for name, value in parts.items():
            object.__setattr__(self, name, value)
        self._check_ids()
        self._check_weights()

    @property
    def inputs(self) -> Any:
        """All inputs at once: reads, and holds, everything."""
        return self.batch().inputs

    @property
    def targets(self) -> Tensor:
        """All targets, once everything was read; reads what is left.

        Raises:
            ValueError: If their shape varies from batch to batch.
        """
        self.stream.read_all(self._positions)
        if self.stream.targets is None:
            raise ValueError(f"{self.name}: the targets vary in shape from batch to batch, so they do not fit together")
        return self._moved(checked_targets(self.name, self.stream.targets[self._positions], self.ids, self.class_names))

    @property
    def holds_inputs(self) -> bool:
        """Never."""
        return False

    @property
    def holds_targets(self) -> bool:
        """Whether everything was read already, and the targets fit together."""
        return self.stream.targets is not None and bool((self.stream.digests[self._positions] != 0).all())

    @property
    def is_collated(self) -> bool:
        """Whether a collate function of the user's own makes the batches: an example may look otherwise in another."""
        return self.stream.collate is not default_collate

    def __repr__(self) -> str:
        first = self.example
        return f"StreamedDataset({self.name!r}, {len(self)} examples of {shapes_of(first.inputs)})"

    def batch(self) -> Batch:
        """All examples as one batch: reads, and holds, everything."""
        return self._batch(slice(None), self.stream.read(self._positions))

    def batches(self, size: int) -> Iterator[Batch]:
        """The examples in order, `size` at a time, read ahead by the stream's workers.

        Raises:
            ValueError: If the size is not positive.
            UnreadableExampleError: If an example cannot be read, or is not what it was.
        """
        check_batch_size(size)
        for number, parts in enumerate(self.stream.batches(self._positions, size)):
            yield self._batch(slice(number * size, (number + 1) * size), parts)

    def in_batches(self, size: int) -> Sequence[Batch]:
        """The same batches by number, read whenever they are asked for."""
        return _Batches(self, size)

    def gathered(self, positions: Int[Tensor, "..."]) -> Batch:
        """The examples at positions of any shape, each read once."""
        found, rows = positions.unique(return_inverse=True)
        return tree_map(lambda leaf: leaf[rows.to(leaf.device)], self._take(found).batch())

    def _batch(self, rows: slice, parts: Parts) -> Batch:
        ids = self.ids[rows]
        for leaf in tree_leaves(parts.inputs):
            check_finite(self.name, leaf, "inputs", ids)
        targets = checked_targets(self.name, parts.targets, ids, self.class_names)
        weights = None if self.weights is None else self.weights[rows]
        return Batch(tree_map(self._moved, parts.inputs), self._moved(targets), weights)

    def _moved(self, leaf: Tensor) -> Tensor:
        return leaf.to(device=self._device, dtype=self._dtype if leaf.is_floating_point() else None)

    def _take(self, index: Any) -> Dataset:
        index = index.cpu() if isinstance(index, Tensor) else index
        weights = None if self.weights is None else self.weights[index]
        return self._but(_positions=self._positions[index], ids=self.ids[index], weights=weights)

    def with_inputs(self, inputs: Any) -> Dataset:
        """The same examples with other inputs, such as their features, in memory.

        Raises:
            ValueError: If there are not as many, or one is not finite.
        """
        return Dataset(inputs, self.targets, self.ids, self.name, class_names=self.class_names, weights=self.weights)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Dataset:
        """The same examples, whose batches come on another device; `dtype` applies to real tensors only."""
        weights = None if self.weights is None else self.weights.to(device=device, dtype=dtype)
        return self._but(
            _device=self._device if device is None else torch.device(device),
            _dtype=self._dtype if dtype is None else dtype,
            ids=self.ids.to(device=device),
            weights=weights,
        )

    def identity(self) -> dict[str, Any]:
        """The hashes of what was read, the ids, and what makes batches of both; reads what was not read yet."""
        self.stream.read_all(self._positions)
        return {
            "ids": self.ids,
            "weights": self.weights,
            "items": self.stream.digests[self._positions],
            "collate": None if self.stream.collate is default_collate else self.stream.collate,
            "split": None if self.stream.split is split_batch else self.stream.split,
            "dtype": self._dtype,
        }


class _Batches(Sequence[Batch]):
    """A dataset's batches, read whenever they are asked for; ahead, where they are asked for one after the other."""

    def __init__(self, data: StreamedDataset, size: int) -> None:
        self._data, self._size = data, size

    def __len__(self) -> int:
        return ceil(len(self._data) / self._size)

    def __iter__(self) -> Iterator[Batch]:
        return self._data.batches(self._size)

    @overload
    def __getitem__(self, index: int) -> Batch: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Batch]: ...

    def __getitem__(self, index: int | slice) -> Batch | Sequence[Batch]:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        start = range(len(self))[index] * self._size
        return self._data._take(slice(start, start + self._size)).batch()
