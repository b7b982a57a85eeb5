import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data import Dataset as TorchDataset

from bayes_influence.data.dataset import Dataset
from bayes_influence.data.examples import pairs_of, stacked_pairs

pytestmark = pytest.mark.usefixtures("as_installed")

INPUTS, CLASSES = torch.arange(12.0).reshape(6, 2), torch.tensor([0, 1, 2, 0, 1, 2])


class Squares(TorchDataset):
    """A torch dataset that knows its length and never says that it ends."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return np.array([index, index**2], dtype=np.float32), index


class Unnamed:
    """Something else."""


@pytest.mark.parametrize(
    "examples",
    [
        TensorDataset(INPUTS, CLASSES),
        list(zip(INPUTS, CLASSES.tolist(), strict=True)),
        zip(INPUTS.numpy(), CLASSES.tolist(), strict=True),
        dict(enumerate(zip(INPUTS, CLASSES, strict=True))).values(),
        [[row, label] for row, label in zip(INPUTS, CLASSES, strict=True)],
    ],
)
def test_examples_are_stacked_in_their_order(examples):
    data = Dataset.of_examples(examples, "toy", class_names=("a", "b", "c"))
    assert torch.equal(data.inputs, INPUTS)
    assert data.targets.tolist() == CLASSES.tolist()
    assert data.ids.tolist() == list(range(6))
    assert (data.name, data.class_names) == ("toy", ("a", "b", "c"))


def test_a_torch_dataset_is_asked_for_as_many_as_it_has():
    data = Dataset.of_examples(Squares())
    assert data.inputs.tolist() == [[0, 0], [1, 1], [2, 4]]
    assert (data.targets.dtype, data.targets.tolist()) == (torch.int64, [0, 1, 2])


def test_nested_inputs_and_real_targets():
    data = Dataset.of_examples([({"x": INPUTS[row], "y": float(row)}, 0.5 * row) for row in range(3)])
    assert data.inputs["x"].shape == (3, 2)
    assert data.inputs["y"].tolist() == [0, 1, 2]
    assert data.targets.tolist() == [0, 0.5, 1]


@pytest.mark.parametrize(
    ("examples", "error", "message"),
    [
        (
            DataLoader(TensorDataset(INPUTS)),
            TypeError,
            r"toy: expected examples, got a DataLoader of .*take its",
        ),
        (3, TypeError, r"toy: expected \(input, target\) pairs, got int"),
        (TensorDataset(INPUTS), TypeError, "but example 0 is tuple"),
        ([(INPUTS[0], 0), INPUTS[1]], TypeError, "but example 1 is torch's Tensor"),
        ([], ValueError, "toy: a dataset needs at least one example, got none"),
        (
            [(INPUTS[0], "cat")],
            TypeError,
            "toy: targets must be tensors, got list; convert with",
        ),
        ([(Unnamed(), 0)], TypeError, "toy: inputs must be tensors, arrays or numbers, got .*Unnamed; convert them"),
        ([(INPUTS[0], 0), (INPUTS[0, :1], 1)], ValueError, "toy: inputs must have one shape to be stacked; pad, crop"),
    ],
)
def test_what_are_no_examples(examples, error, message):
    with pytest.raises(error, match=message):
        Dataset.of_examples(examples, "toy")


def test_pairs_come_one_by_one():
    pairs = pairs_of(iter([(1, 2), (3, 4), None]), "toy")
    assert [next(pairs), next(pairs)] == [(1, 2), (3, 4)]
    assert stacked_pairs([(1, 2), (3, 4)], "toy")[0].tolist() == [1, 3]
