from dataclasses import replace

import numpy as np
import pytest
import torch

from bayes_influence.data.images import IMAGE_SETS
from bayes_influence.experiments.papers import small_images
from bayes_influence.experiments.papers.registry import paper_studies, reproduce


def test_digits_are_averaged_down_and_keep_their_ids(monkeypatch, digits_like_mnist):
    monkeypatch.setattr(small_images, "load_images", lambda *args, **kwargs: digits_like_mnist)
    split = small_images.small_images("mnist", 6, 3, 7, seed=0)
    whole = digits_like_mnist.train
    assert split.train.inputs.shape == (6, 49)
    for row, one in zip(split.train.inputs, split.train.ids, strict=True):
        image = whole.inputs[int(whole.positions(one)[0]), 0]
        blocks = image.reshape(7, 4, 7, 4).mean(dim=(1, 3))
        torch.testing.assert_close(row.reshape(7, 7), blocks)
    assert split.test.ids.tolist() == digits_like_mnist.test.ids[:3].tolist()
    assert np.all(np.diff(split.train.ids.numpy()) > 0)
    square = small_images.small_images("mnist", 6, 3, 7, seed=0, flat=False).train
    assert torch.equal(square.inputs, split.train.inputs.reshape(6, 1, 7, 7))


def test_more_images_than_there_are_are_refused(monkeypatch, digits_like_mnist):
    monkeypatch.setattr(small_images, "load_images", lambda *args, **kwargs: digits_like_mnist)
    with pytest.raises(ValueError, match="mnist has 12 training images, got train=13; take fewer"):
        small_images.small_images("mnist", 13, 3, 7, seed=0)


def test_a_pair_of_classes_is_numbered_anew(digits_like_mnist):
    two = small_images.of_pair(digits_like_mnist.train, (1, 0))
    assert two.targets.tolist() == [1, 0, 1, 0]
    assert two.class_names == ("1", "0")
    assert two.ids.tolist() == [100, 101, 110, 111]
    assert torch.equal(two.inputs, digits_like_mnist.train.at(two.ids).inputs)


@pytest.mark.parametrize("name", ["loo-logistic", "mislabelled", "group-mnist"])
def test_images_that_are_missing_are_told_before_anything_is_measured(name, tmp_path, monkeypatch, caplog):
    nowhere = replace(IMAGE_SETS["mnist"], source=replace(IMAGE_SETS["mnist"].source, mirrors=()))
    monkeypatch.setitem(IMAGE_SETS, "mnist", nowhere)
    said = rf"mnist: train-images-idx3-ubyte not found .* in {tmp_path}/mnist, .* put the files there"
    with pytest.raises(FileNotFoundError, match=said):
        reproduce(name, {"data_folder": str(tmp_path)}, tmp_path / "study", progress=False)
    assert not list((tmp_path / "study").rglob("*.csv"))
    assert "failed" not in caplog.text
    with pytest.raises(FileNotFoundError, match=r"the data folder .*absent does not exist"):
        reproduce(name, {"data_folder": str(tmp_path / "absent")}, tmp_path / "study", progress=False)


def test_a_table_needs_no_images(monkeypatch):
    settings = paper_studies()["mislabelled"].settings
    assert replace(settings, datasets=("breast-cancer", "fashion-mnist")).image_sets == ("fashion-mnist",)
    monkeypatch.setattr(IMAGE_SETS["mnist"].source.__class__, "files_in", lambda *given: pytest.fail("asked for"))
    replace(settings, datasets=("breast-cancer",)).fetch()


@pytest.mark.parametrize("name", ["two-models", "loo-logistic"])
def test_more_images_than_there_are_are_refused_before_anything_is_measured(name, tmp_path):
    with pytest.raises(ValueError, match=r"train must be at most 60000, the training images of a set, got 10000000"):
        reproduce(name, {"train": 10_000_000}, tmp_path / "study", progress=False)
    assert not (tmp_path / "study").exists()


def test_a_pair_that_leaves_no_images_is_refused():
    said = r"train=20000 images of the pair .* beside feature_images=600 of the 60000 of mnist; take at most train=9900"
    with pytest.raises(ValueError, match=said):
        replace(paper_studies()["two-models"].settings, train=20_000)
