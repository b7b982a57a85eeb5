"""Data as people have them, taken as a `Dataset`: loaders and datasets of torch, arrays, pairs of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    default_collate,
)
from torch.utils.data import Dataset as TorchDataset

from bayes_influence.data.checks import kind_of
from bayes_influence.data.dataset import Dataset, Split
from bayes_influence.data.stream import Augmentation, Stream, split_batch
from bayes_influence.data.stream import Split as Splitting
from bayes_influence.data.streamed import StreamedDataset


def as_dataset(
    data: Any,
    name: str = "data",
    *,
    split: Splitting = split_batch,
    augmentation: Augmentation = "refuse",
) -> Dataset:
    """Any data as a `Dataset`, whose ids are the positions in the source.

    Args:
        data: A `Dataset`, as it is; a pair (inputs, targets) of arrays or tensors; a torch dataset, which stays where
            it is and is read in batches; or a `DataLoader`, of which dataset, collate function and workers are taken.
            Its shuffling is not: an example's id is its position in the dataset.
        name: What the data are called in messages.
        split: Takes a batch of a loader apart, see `split_batch`.
        augmentation: What becomes of a dataset that draws its items anew at each read, see `Stream`.

    Raises:
        TypeError: If it is something else.
        ValueError: If a loader leaves examples out, or draws some more often than others.
    """
    if isinstance(data, Dataset):
        return data
    if isinstance(data, Split):
        raise TypeError(f"{name} must be one set of examples, got a Split; take its .train or its .test")
    if isinstance(data, DataLoader):
        return _of_loader(data, name, split, augmentation)
    if isinstance(data, IterableDataset):
        raise TypeError(f"{name}: an IterableDataset has no examples by number, so no ids; read it into a list first")
    if type(data) is TensorDataset and len(data.tensors) == 2:
        return Dataset(*data.tensors, torch.arange(len(data)), name)
    if isinstance(data, TorchDataset):
        return StreamedDataset(Stream(data, name, split=split, augmentation=augmentation))
    if isinstance(data, tuple) and len(data) == 2:
        inputs, targets = (_tensor(part, name) for part in data)
        return Dataset(inputs, targets, torch.arange(len(targets)), name)
    raise TypeError(
        f"{name} must be a Dataset, a torch Dataset or DataLoader, or a pair (inputs, targets) of arrays, got "
        f"{kind_of(data)}"
    )


def _of_loader(loader: DataLoader[Any], name: str, split: Splitting, augmentation: Augmentation) -> Dataset:
    if isinstance(loader.dataset, IterableDataset):
        raise TypeError(f"{name}: an IterableDataset has no examples by number, so no ids; read it into a list first")
    batches = loader.batch_sampler
    sampler = loader.sampler if batches is None else batches.sampler if type(batches) is BatchSampler else batches
    taken = _positions(sampler, loader, name)
    source, collate = loader.dataset, None if batches is None else loader.collate_fn
    as_rows = collate is default_collate and split is split_batch
    if type(source) is TensorDataset and len(source.tensors) == 2 and as_rows:
        whole: Dataset = Dataset(*source.tensors, torch.arange(len(source)), name)
    else:
        whole = StreamedDataset(Stream(source, name, collate, split, loader.num_workers, augmentation))
    return whole if taken is None else whole.select(taken)


def _positions(sampler: Sampler[Any] | Any, loader: DataLoader[Any], name: str) -> list[int] | None:
    """Which examples of its dataset a loader hands out, None for all of them.

    Raises:
        ValueError: If it does not hand out some examples once each.
    """
    drops = loader.drop_last or getattr(loader.batch_sampler, "drop_last", False)
    if type(sampler) is SequentialSampler and len(sampler) == len(loader.dataset):  # type: ignore[arg-type]
        left = len(loader.dataset) % (loader.batch_size or 1)  # type: ignore[arg-type]
        if drops and left:
            raise ValueError(
                f"{name}: the loader drops its last batch without shuffling, so its last {left} examples are never "
                "trained on; make it with drop_last=False, or of a Subset without them"
            )
        return None
    if type(sampler) is SubsetRandomSampler:
        return sorted(int(index) for index in sampler.indices)
    if type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples == len(loader.dataset):  # type: ignore[arg-type]
        return None
    raise ValueError(
        f"{name}: which examples a loader with a {type(sampler).__name__} trains on, and how often, cannot be told; "
        "pass its dataset, or a Dataset with weights where some count more than others"
    )


def _tensor(value: Any, name: str) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        raise TypeError(
            f"{name}: a pair of arrays has one array of inputs, got {kind_of(value)} of {sorted(map(str, value))}; for "
            "a network that takes them by name pass bi.Dataset(bi.Arguments(**inputs), targets, torch.arange(n))"
        )
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name}: arrays must hold numbers, got {kind_of(value)} of {array.dtype}; encode them first")
    return torch.from_numpy(np.ascontiguousarray(array))
