"""Items that are read when they are needed."""

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from bayes_influence.data.arguments import Arguments
from bayes_influence.data.stream import Stream, UnreadableExampleError, split_batch

X, Y = torch.arange(20.0).reshape(10, 2), torch.arange(10) % 3


class Items(Dataset):
    """Ten examples, and what may go wrong with them."""

    def __init__(self, draws=False, broken=(), ragged=(), length=10):
        self.draws, self.broken, self.ragged, self.length, self.reads = draws, broken, ragged, length, []

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self.reads.append(index)
        if index in self.broken:
            raise OSError(f"no picture {index}")
        noise = torch.randn(2) + np.random.rand() if self.draws else 0  # noqa: NPY002
        x = X[index] + noise
        return (torch.cat([x, x]) if index in self.ragged else x), int(Y[index])


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_items_in_the_order_asked_for(workers):
    stream = Stream(Items(), "ten", workers=workers)
    order = torch.tensor([7, 2, 9, 0, 1])
    parts = list(stream.batches(order, 2))
    assert [len(part.targets) for part in parts] == [2, 2, 1]
    assert torch.equal(torch.cat([part.inputs for part in parts]), X[order])
    assert torch.equal(torch.cat([part.targets for part in parts]), Y[order])


def test_targets_are_kept_of_what_was_read_and_nothing_is_read_twice():
    items = Items()
    stream = Stream(items, "ten")
    stream.read(torch.arange(6))
    items.reads.clear()
    stream.read_all(torch.arange(10))
    assert sorted(items.reads) == [6, 7, 8]
    assert torch.equal(stream.targets, Y)


def test_an_item_that_is_drawn_anew_is_refused_before_anything_else():
    with pytest.raises(UnreadableExampleError, match=r"ten: example 0 is not what it was .*augmentation='freeze'"):
        Stream(Items(draws=True), "ten")


def test_an_item_that_changes_later_is_refused_by_name():
    items = Items()
    stream = Stream(items, "ten")
    stream.read(torch.arange(10))
    items.draws = True
    with pytest.raises(UnreadableExampleError, match="example 3 is not what it was"):
        stream.read(torch.tensor([3]))


@pytest.mark.parametrize("workers", [0, 2])
def test_frozen_draws_are_the_same_at_each_read_differ_between_items_and_leave_the_generators(workers):
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    expected = torch.rand(1), np.random.rand()  # noqa: NPY002
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    stream = Stream(Items(draws=True), "ten", augmentation="freeze", workers=workers)
    first, second = (torch.cat([part.inputs for part in stream.batches(torch.arange(10), 4)]) for _ in range(2))
    assert torch.equal(first, second)
    noise = first - X
    assert len(noise[:, 0].unique()) == 10
    if workers == 0:  # a loader draws a seed for its workers
        assert torch.equal(torch.rand(1), expected[0])
        assert np.random.rand() == expected[1]  # noqa: NPY002


@pytest.mark.parametrize("workers", [0, 2])
def test_an_item_that_raises_is_named_with_what_it_raised(workers):
    stream = Stream(Items(broken=(4,)), "ten", workers=workers)
    with pytest.raises(UnreadableExampleError, match="ten: example 4 could not be read: OSError: no picture 4"):
        list(stream.batches(torch.arange(10), 5))


def test_items_of_different_sizes_do_not_make_a_batch():
    stream = Stream(Items(ragged=(3,)), "ten")
    with pytest.raises(UnreadableExampleError, match=r"examples 0 to 4 do not make a batch .* pass collate="):
        stream.read(torch.arange(5))


def test_what_is_no_source_is_refused(as_installed):
    with pytest.raises(TypeError, match="examples must be asked for by position, got generator without"):
        Stream((x for x in range(3)), "counted")
    with pytest.raises(ValueError, match="needs at least one example, got none"):
        Stream(Items(length=0), "ten")
    with pytest.raises(ValueError, match="augmentation must be 'refuse' or 'freeze', got 'keep'"):
        Stream(Items(), "ten", augmentation="keep")
    with pytest.raises(TypeError, match="a batch must be made of tensors, got str"):
        Stream([("a", 1), ("b", 0)], "words", collate=lambda items: (["x"] * len(items), torch.zeros(len(items))))
    with pytest.raises(ValueError, match=r"a batch of 1 items has tensors of lengths \[1, 2\]"):
        Stream(Items(), "ten", collate=lambda items: (torch.zeros(2, 1), torch.zeros(len(items))))


def test_batches_are_taken_apart():
    pair, triple = split_batch([X, Y]), split_batch((X, Y, X))
    assert pair[0] is X
    assert pair[1] is Y
    assert isinstance(triple[0], Arguments)
    assert triple[0].args == (X, Y)
    assert triple[1] is X
    inputs, targets = split_batch({"input_ids": X, "labels": Y, "attention_mask": None})
    assert inputs.kwargs == {"input_ids": X}
    assert targets is Y
    with pytest.raises(TypeError, match=r"the keys \['a', 'b'\] must have its targets under one of labels"):
        split_batch({"a": X, "b": Y})
    with pytest.raises(TypeError, match=r"must be a pair .* got torch's Tensor"):
        split_batch(X)


def test_hashes_see_every_bit_and_every_part():
    stream = [Stream(TensorDataset(x, Y), "ten") for x in (X, X.clone(), torch.nextafter(X, X + 1), X.double())]
    for one in stream:
        one.read_all(torch.arange(10))
    assert torch.equal(stream[0].digests, stream[1].digests)
    assert (stream[0].digests != stream[2].digests).all()
    assert len(stream[0].digests.unique()) == 10
    other = Stream(TensorDataset(X, Y + 1), "ten")
    other.read_all(torch.arange(10))
    assert (other.digests != stream[0].digests).all()


def test_its_error_can_be_sent_from_a_process_to_another():
    assert "x" in str(pickle.loads(pickle.dumps(UnreadableExampleError("x"))))


class Fetched(Items):
    """Items that torch's loaders fetch several at a time, doubled; in some batches also otherwise."""

    def __init__(self, mixed=False, short=False, **kinds):
        super().__init__(**kinds)
        self.mixed, self.short = mixed, short

    def __getitems__(self, indices):
        found = [(2 * x + self.mixed * len(indices), y) for x, y in (self[index] for index in indices)]
        return found[:-1] if self.short else found


@pytest.mark.parametrize("workers", [0, 2])
def test_items_are_fetched_as_loaders_fetch_them(workers):
    parts = list(Stream(Fetched(), "ten", workers=workers).batches(torch.tensor([3, 1, 2]), 2))
    assert torch.equal(torch.cat([part.inputs for part in parts]), 2 * X[[3, 1, 2]])
    frozen = Stream(Fetched(draws=True), "ten", augmentation="freeze")
    assert torch.equal(frozen.read(torch.tensor([3, 1])).inputs[1:], frozen.read(torch.tensor([1])).inputs)


def test_fetched_items_that_depend_on_the_batch_or_do_not_come_are_refused():
    with pytest.raises(UnreadableExampleError, match="ten: example 0 is not what it was when it was read before"):
        Stream(Fetched(mixed=True), "ten").read(torch.tensor([0, 1]))
    with pytest.raises(UnreadableExampleError, match="__getitems__ of 1 positions must return a list of as many items"):
        Stream(Fetched(short=True), "ten")
    with pytest.raises(UnreadableExampleError, match="ten: example 3 could not be read: OSError: no picture 3"):
        Stream(Fetched(broken=(3,)), "ten").read(torch.tensor([2, 3]))
