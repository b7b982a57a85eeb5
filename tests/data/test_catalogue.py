import pytest
import torch

from bayes_influence.data.catalogue import CATALOGUE, find_known, outside_examples, picture
from bayes_influence.data.dataset import Dataset, Split
from bayes_influence.data.images import ImageSet
from bayes_influence.data.tables import Table, hold_out, load_table


@pytest.fixture
def tiny_images(monkeypatch):
    """Every image set as four training and two test images of its own brightness, wherever it is kept."""

    def raw_split(self, dtype, folder=None):
        brightness = 1.0 + sorted(CATALOGUE).index(self.source.name)
        images = brightness * torch.arange(1, 13, dtype=dtype).reshape(6, 1, 1, 2)
        whole = Dataset(images, torch.arange(6) % 2, torch.arange(6), self.source.name, class_names=("a", "b"))
        return Split(whole.select(range(4)), whole.select([4, 5]))

    monkeypatch.setattr(ImageSet, "raw_split", raw_split)


@pytest.mark.parametrize(
    ("name", "kind", "epochs", "batch_size", "drawn", "outside"),
    [
        ("iris", Table, 300, 32, None, None),
        ("wine", Table, 300, 32, None, None),
        ("breast-cancer", Table, 300, 32, None, None),
        ("digits", Table, 300, 32, (1, 8, 8), None),
        ("mnist", ImageSet, 10, 128, None, "fashion-mnist"),
        ("fashion-mnist", ImageSet, 10, 128, None, "mnist"),
        ("cifar10", ImageSet, 10, 128, None, None),
    ],
)
def test_what_depends_on_the_data_set(name, kind, epochs, batch_size, drawn, outside):
    known = find_known(name)
    assert type(known) is kind
    assert (known.epochs, known.batch_size, known.picture, known.outside) == (epochs, batch_size, drawn, outside)


def test_every_known_set_is_tested():
    assert list(CATALOGUE) == ["iris", "wine", "breast-cancer", "digits", "mnist", "fashion-mnist", "cifar10"]


def test_an_unknown_name_is_answered_by_the_known_ones():
    with pytest.raises(
        ValueError, match=r"unknown dataset 'imagenet'; known: iris, wine, .*, cifar10, or a file of the user's own"
    ):
        find_known("imagenet")


def test_a_table_is_split_as_hold_out_splits_it():
    split, expected = find_known("iris").split(torch.float32), hold_out(load_table("iris", torch.float32), seed=0)
    for found, same in ((split.train, expected.train), (split.test, expected.test)):
        assert torch.equal(found.ids, same.ids)
        assert torch.equal(found.inputs, same.inputs)


@pytest.mark.usefixtures("tiny_images")
def test_examples_from_outside_are_standardised_as_the_own_ones():
    outside = outside_examples("mnist", torch.float64)
    own, other = (find_known(name).raw_split(torch.float64) for name in ("mnist", "fashion-mnist"))
    expected = (other.test.inputs - own.train.inputs.mean()) / own.train.inputs.std(correction=0)
    torch.testing.assert_close(outside.inputs, expected)
    assert (outside.name, outside.class_names) == ("fashion-mnist", ())


@pytest.mark.parametrize("name", ["iris", "cifar10"])
def test_where_nothing_is_outside(name):
    assert outside_examples(name, torch.float64) is None


def test_images_are_drawn_as_they_are():
    images = Dataset(torch.rand(3, 2, 4, 5), torch.zeros(3), torch.tensor([7, 8, 9]))
    assert torch.equal(picture(images, 8), images.inputs[1])


def test_tables_of_pixels_are_drawn_before_they_were_standardised():
    train = hold_out(load_table("digits"), seed=0).train
    example = int(train.ids[5])
    assert torch.equal(picture(train, example), load_table("digits").at(example).inputs.reshape(1, 8, 8))


def test_what_is_no_picture():
    assert picture(load_table("iris"), 0) is None
    assert picture(Dataset(torch.rand(3, 4), torch.zeros(3), torch.arange(3)), 0) is None
    assert picture(Dataset(torch.rand(3, 4), torch.zeros(3), torch.arange(3), "digits"), 0) is None
    assert picture(Dataset({"x": torch.rand(3, 64)}, torch.zeros(3), torch.arange(3), "digits"), 0) is None
