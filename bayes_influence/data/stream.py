"""`Stream`: the items of a torch dataset, read when they are needed, and held to what they were the first time."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader, default_collate
from torch.utils.data import Dataset as TorchDataset
from tqdm.auto import tqdm

from bayes_influence.data.arguments import Arguments
from bayes_influence.data.checks import kind_of
from bayes_influence.data.item_hashes import item_hashes
from bayes_influence.errors import BayesInfluenceError
from bayes_influence.torch_internals import tree_leaves

Augmentation = Literal["refuse", "freeze"]
"""What becomes of an item that is drawn anew at each read: an error, or one draw for good, from the item's position."""

READ_AHEAD = 64
"""Items that are read at a time where nobody says how many."""

LABELS = ("labels", "label", "targets", "target")
"""Where a batch that is a dict has its targets."""


class UnreadableExampleError(BayesInfluenceError, ValueError):
    """An item could not be read, or is not what it was when it was read before."""


@dataclass(frozen=True)
class Parts:
    """Some items as a batch, before anything is moved.

    Attributes:
        inputs: What the network takes.
        targets: (B, ...).
    """

    inputs: Any
    targets: Tensor


Split = Callable[[Any], tuple[Any, Tensor]]
"""(collated batch) -> (inputs, targets)."""


def split_batch(batch: Any) -> tuple[Any, Tensor]:
    """Inputs and targets of a batch as torch's loaders and Hugging Face's collators make them.

    Args:
        batch: A pair; a longer tuple, of which the last is the target and the others are the network's arguments; or a
            dict with one of `LABELS`, of which the others are the network's arguments by name.

    Raises:
        TypeError: If it is something else.
    """
    if isinstance(batch, Mapping):
        found = [name for name in LABELS if name in batch]
        if len(found) != 1:
            raise TypeError(
                f"a batch with the keys {sorted(map(str, batch))} must have its targets under one of "
                f"{', '.join(LABELS)}; pass split=, a function of a batch that returns inputs and targets"
            )
        return Arguments(**{name: value for name, value in batch.items() if name != found[0]}), batch[found[0]]
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return batch[0], batch[1]
    if isinstance(batch, tuple | list) and len(batch) > 2:
        return Arguments(*batch[:-1]), batch[-1]
    raise TypeError(
        f"a batch must be a pair (inputs, targets), a longer tuple or a dict with its targets, got {kind_of(batch)}; "
        "pass split=, a function of a batch that returns inputs and targets"
    )


class Stream:
    """Random access to the items of a torch dataset, in batches.

    Every item leaves a hash of its bytes at its first read, and is held against it whenever it is read again: one that
    is drawn anew, as random augmentation draws it, has no influence to speak of.

    Args:
        items: A torch dataset, a list, or whatever else has `__len__` and `__getitem__`.
        name: What the data are called.
        collate: Makes a batch of items.
        split: Takes a batch apart.
        workers: Processes that read.
        augmentation: What becomes of items that are drawn anew.

    Attributes:
        digests: (n,) the items' hashes; those that were not read yet are 0.
        targets: (n, ...) the targets of what was read; None where their shape varies.

    Raises:
        TypeError: If the items cannot be asked for by position.
        ValueError: If there is none.
        UnreadableExampleError: If the first, the middle or the last one cannot be read twice.
    """

    def __init__(
        self,
        items: Any,
        name: str,
        collate: Callable[[list[Any]], Any] | None = None,
        split: Split = split_batch,
        workers: int = 0,
        augmentation: Augmentation = "refuse",
    ) -> None:
        if not (hasattr(items, "__getitem__") and hasattr(items, "__len__")):
            raise TypeError(
                f"{name}: examples must be asked for by position, got {kind_of(items)} without __len__ or __getitem__; "
                "an iterable set has no ids, read it into a list first"
            )
        if augmentation not in ("refuse", "freeze"):
            raise ValueError(f"augmentation must be 'refuse' or 'freeze', got {augmentation!r}")
        length = len(items)
        if length == 0:
            raise ValueError(f"{name}: a dataset needs at least one example, got none")
        self.items, self.name, self.workers, self.augmentation = items, name, workers, augmentation
        self.collate, self.split = collate or default_collate, split
        self.digests = torch.zeros(length, dtype=torch.int64)
        self.targets: Tensor | None = torch.empty(0)
        for position in sorted({0, length // 2, length - 1}):
            for _ in range(2):
                self.read(torch.tensor([position]))

    def __len__(self) -> int:
        return len(self.digests)

    def read(self, positions: Int[Tensor, " B"]) -> Parts:
        """The items at these positions, read by this process.

        Raises:
            UnreadableExampleError: If one raises, does not fit the others, or is not what it was.
        """
        reader = _Reader(self.items, self.name, self.augmentation == "freeze")
        return self._checked(_collated(self, reader.__getitems__(positions.tolist())))

    def batches(self, positions: Int[Tensor, " n"], size: int) -> Iterator[Parts]:
        """The items at these positions in order, `size` at a time, read ahead by the workers.

        Raises:
            UnreadableExampleError: As for `read`.
        """
        if self.workers == 0:
            for part in positions.split(size):
                yield self.read(part)
            return
        reader = _Reader(self.items, self.name, self.augmentation == "freeze")
        loader = DataLoader(
            reader,
            batch_sampler=[part.tolist() for part in positions.split(size)],
            num_workers=self.workers,
            collate_fn=_Collating(self),
        )
        yield from map(self._checked, loader)

    def read_all(self, positions: Int[Tensor, " n"]) -> None:
        """Reads what was not read yet, for its hash and its target."""
        unread = positions[self.digests[positions] == 0]
        if len(unread):
            batches, what = self.batches(unread, READ_AHEAD), f"{self.name}: reading"
            for _ in tqdm(batches, desc=what, unit="batch", delay=2, disable=None):
                pass

    def _checked(self, read: _Read) -> Parts:
        known = self.digests[read.positions]
        changed = (known != 0) & (known != read.digests)
        if changed.any():
            raise UnreadableExampleError(
                f"{self.name}: example {int(read.positions[changed][0])} is not what it was when it was read before. "
                "An example that changes from read to read, as random augmentation makes it, has no influence of its "
                "own: take the transformation away, or pass augmentation='freeze' for one draw of it for good"
            )
        inputs, targets = self.split(read.batch)
        leaves = [*tree_leaves(inputs), targets]
        wrong = [leaf for leaf in leaves if not isinstance(leaf, Tensor)]
        if wrong:
            raise TypeError(
                f"{self.name}: a batch must be made of tensors, got {kind_of(wrong[0])}; convert in the dataset, or "
                "pass collate=, a function from a list of items to a batch"
            )
        lengths = {len(leaf) if leaf.ndim else 0 for leaf in leaves}
        if lengths != {len(read.positions)}:
            raise ValueError(
                f"{self.name}: a batch of {len(read.positions)} items has tensors of lengths {sorted(lengths)}; every "
                "one must have the examples along its first axis"
            )
        self._remember(read, targets)
        return Parts(inputs, targets)

    def _remember(self, read: _Read, targets: Tensor) -> None:
        if self.targets is not None and not self.digests.any():
            self.targets = targets.new_zeros(len(self), *targets.shape[1:])
        if self.targets is not None and self.targets.shape[1:] != targets.shape[1:]:
            self.targets = None
        if self.targets is not None:
            self.targets[read.positions] = targets
        self.digests[read.positions] = read.digests


@dataclass(frozen=True)
class _Read:
    positions: Int[Tensor, " B"]
    digests: Int[Tensor, " B"]
    batch: Any


class _Reader(TorchDataset[Any]):
    """Every item with its position, as torch's loaders read it: by `__getitems__` where there is one."""

    def __init__(self, items: Any, name: str, freeze: bool) -> None:
        self.items, self.name, self.freeze = items, name, freeze

    def __getitems__(self, positions: list[int]) -> list[tuple[int, Any]]:
        several = getattr(self.items, "__getitems__", None)
        if several is None or self.freeze:
            return [self._one(position, several) for position in positions]
        try:
            items = several(positions)
        except Exception:
            # Once more, one by one: which of them it is.
            return [self._one(position, several) for position in positions]
        if len(items) != len(positions):
            raise UnreadableExampleError(
                f"{self.name}: __getitems__ of {len(positions)} positions must return a list of as many items, got "
                f"{len(items)}"
            )
        return list(zip(positions, items, strict=True))

    def _one(self, position: int, several: Callable[[list[int]], Any] | None) -> tuple[int, Any]:
        try:
            with _own_draws(position) if self.freeze else nullcontext():
                item = self.items[position] if several is None else several([position])[0]
        except Exception as error:
            raise UnreadableExampleError(
                f"{self.name}: example {position} could not be read: {type(error).__name__}: {error}"
            ) from error
        return position, item


class _Collating:
    """A function that a worker process can be sent."""

    def __init__(self, stream: Stream) -> None:
        self.collate, self.name = stream.collate, stream.name

    def __call__(self, read: list[tuple[int, Any]]) -> _Read:
        return _collated(self, read)


def _collated(stream: Stream | _Collating, read: list[tuple[int, Any]]) -> _Read:
    positions, items = (list(column) for column in zip(*read, strict=True))
    try:
        batch = stream.collate(items)
    except (RuntimeError, TypeError, ValueError) as error:
        raise UnreadableExampleError(
            f"{stream.name}: examples {positions[0]} to {positions[-1]} do not make a batch ({error}); give them one "
            "shape (resize, crop or pad), or pass collate=, a function from a list of items to a batch"
        ) from error
    digests = item_hashes(items, batch if stream.collate is default_collate else None)
    return _Read(torch.tensor(positions), torch.tensor(digests), batch)


@contextmanager
def _own_draws(seed: int) -> Iterator[None]:
    """Python's, numpy's and torch's generators seeded by a position, and afterwards as they were."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (the generator that augmentations draw from)
    with torch.random.fork_rng(devices=[]):
        try:
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            torch.manual_seed(seed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
