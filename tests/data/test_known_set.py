import pytest
import torch

from bayes_influence.data.dataset import Dataset, Split
from bayes_influence.data.known_set import KnownSet


class Pairs(KnownSet):
    """A kind of data sets, as a reader would add one."""

    def raw_split(self, dtype, folder=None):
        inputs = torch.arange(6, dtype=dtype)[:, None]
        whole = Dataset(inputs, torch.zeros(6), torch.arange(6), str(folder))
        return Split(whole.select(range(4)), whole.select([4, 5]))

    def standardise(self, train, *others):
        return tuple(part.with_inputs(part.inputs - train.inputs.mean()) for part in (train, *others))


def test_a_kind_says_how_it_is_loaded_and_standardised():
    split = Pairs(epochs=3, batch_size=2).split(torch.float64, "folder")
    assert split.train.inputs.flatten().tolist() == [-1.5, -0.5, 0.5, 1.5]
    assert split.test.inputs.flatten().tolist() == [2.5, 3.5]
    assert (split.train.name, split.train.inputs.dtype) == ("folder", torch.float64)


def test_all_examples_are_the_training_part_standardised_on_itself():
    found = Pairs(epochs=3, batch_size=2).all_examples(torch.float64, "folder")
    assert found.inputs.flatten().tolist() == [-1.5, -0.5, 0.5, 1.5]
    assert found.name == "folder"


def test_a_kind_that_does_not_say_is_none():
    with pytest.raises(TypeError, match="abstract"):
        KnownSet(epochs=3, batch_size=2)
