"""Data as people have them."""

import numpy as np
import pytest
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

import bayes_influence as bi
from bayes_influence.data.sources import as_dataset
from bayes_influence.data.streamed import StreamedDataset

X, Y = torch.arange(22.0).reshape(11, 2), torch.arange(11) % 2


class Items(Dataset):
    """Eleven examples that a loader has to ask for."""

    def __len__(self):
        return 11

    def __getitem__(self, index):
        return X[index], int(Y[index])


class Endless(IterableDataset):
    """Examples without a number."""

    def __iter__(self):
        yield X[0], 0


def held(data):
    return data.ids.tolist(), data.batch().inputs


@pytest.mark.parametrize(
    "source",
    [
        TensorDataset(X, Y),
        Items(),
        DataLoader(Items(), batch_size=4, shuffle=True),
        DataLoader(Items(), batch_size=4, shuffle=True, drop_last=True),
        DataLoader(Items(), batch_size=11, drop_last=True),
        DataLoader(TensorDataset(X, Y), batch_size=4),
        DataLoader(Items(), batch_size=None),
        (X, Y),
        (X.numpy(), Y.numpy()),
        (X.numpy().tolist(), Y.tolist()),
        bi.Dataset(X, Y, torch.arange(11)),
    ],
)
def test_ids_are_positions_in_the_source_whatever_holds_it(source):
    ids, inputs = held(as_dataset(source))
    assert ids == list(range(11))
    assert torch.equal(inputs.to(X), X)


def test_what_fits_into_memory_already_stays_there():
    assert not isinstance(as_dataset(DataLoader(TensorDataset(X, Y), batch_size=4)), StreamedDataset)
    assert isinstance(as_dataset(DataLoader(Items(), batch_size=4)), StreamedDataset)


def test_a_sampler_of_some_examples_leaves_the_others_out():
    loader = DataLoader(Items(), batch_size=2, sampler=SubsetRandomSampler([7, 2, 9]))
    ids, inputs = held(as_dataset(loader))
    assert ids == [2, 7, 9]
    assert torch.equal(inputs, X[[2, 7, 9]])


def test_a_subset_counts_its_own_examples():
    ids, inputs = held(as_dataset(Subset(Items(), [5, 3])))
    assert ids == [0, 1]
    assert torch.equal(inputs, X[[5, 3]])


def test_the_collate_function_and_the_split_of_the_loader_are_used():
    loader = DataLoader(
        Items(),
        batch_size=4,
        collate_fn=lambda items: {
            "x": torch.stack([x for x, _ in items]),
            "label": torch.tensor([y for _, y in items]),
        },
    )
    batch = as_dataset(loader).batch()
    assert torch.equal(batch.inputs.kwargs["x"], X)
    assert torch.equal(batch.targets, Y)
    swapped = as_dataset(loader, split=lambda batch: (batch["x"] + 1, batch["label"]))
    assert torch.equal(swapped.batch().inputs, X + 1)


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (DataLoader(Items(), batch_size=4, drop_last=True), "drops its last batch .* its last 3 examples are never"),
        (DataLoader(Items(), sampler=WeightedRandomSampler([1.0] * 11, 11)), "a loader with a WeightedRandomSampler"),
        (DataLoader(Items(), sampler=RandomSampler(Items(), replacement=True)), "a loader with a RandomSampler"),
        (DataLoader(Items(), sampler=RandomSampler(Items(), num_samples=5)), "a loader with a RandomSampler"),
    ],
)
def test_loaders_that_leave_examples_out_or_repeat_some_are_refused(loader, message):
    with pytest.raises(ValueError, match=message):
        as_dataset(loader)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Endless(), "an IterableDataset has no examples by number"),
        (DataLoader(Endless()), "an IterableDataset has no examples by number"),
        (bi.Split(bi.Dataset(X, Y, torch.arange(11)), bi.Dataset(X, Y, torch.arange(11) + 20)), "got a Split"),
        ("mnist", "must be a Dataset, a torch Dataset or DataLoader, or a pair .* got str"),
        ((np.array(["a", "b"]), np.array([0, 1])), "arrays must hold numbers, got numpy's ndarray of"),
        (
            ({"wave": torch.zeros(2, 3)}, torch.zeros(2)),
            r"one array of inputs, got dict of \['wave'\]; .* pass bi.Dataset\(bi.Arguments\(\*\*inputs\), targets",
        ),
    ],
)
def test_what_is_no_data_is_refused(source, message):
    with pytest.raises(TypeError, match=message):
        as_dataset(source)


class Doubled(TensorDataset):
    """Two tensors whose items are not their rows."""

    def __getitem__(self, index):
        return 2 * X[index], Y[index]


def test_items_and_collate_functions_of_ones_own_are_followed():
    assert torch.equal(as_dataset(Doubled(X, Y)).batch().inputs, 2 * X)
    assert torch.equal(as_dataset(DataLoader(Doubled(X, Y), batch_size=4)).batch().inputs, 2 * X)
    tripled = DataLoader(
        TensorDataset(X, Y),
        batch_size=4,
        collate_fn=lambda items: (3 * default_collate(items)[0], default_collate(items)[1]),
    )
    assert torch.equal(as_dataset(tripled).batch().inputs, 3 * X)


def test_a_sampler_of_another_length_is_refused():
    with pytest.raises(ValueError, match="a loader with a SequentialSampler"):
        as_dataset(DataLoader(Items(), sampler=SequentialSampler(range(6))))
