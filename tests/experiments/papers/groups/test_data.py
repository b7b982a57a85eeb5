import numpy as np
import pytest
import torch

from bayes_influence.experiments.papers.groups import data
from bayes_influence.experiments.papers.groups.data import SEPARATION, gaussian_blobs, gaussian_classes, small_digits


def test_two_classes_lie_their_separation_apart_and_the_split_shares_no_example():
    split = gaussian_classes(4000, 500, seed=3)
    assert (len(split.train), len(split.test), split.train.n_classes) == (4000, 500, 2)
    raw = torch.stack([split.train.inputs[split.train.targets == index].mean(dim=0) for index in range(2)])
    spread = split.train.inputs[split.train.targets == 0].T.cov()
    gap = raw[1] - raw[0]
    # Mahalanobis' distance does not see the standardisation; 4000 draws leave an error of about .03.
    assert float((gap @ torch.linalg.solve(spread, gap)).sqrt()) == pytest.approx(SEPARATION, abs=0.15)
    assert torch.equal(gaussian_classes(50, 10, seed=3).train.inputs, gaussian_classes(50, 10, seed=3).train.inputs)
    assert not torch.equal(gaussian_classes(50, 10, seed=3).train.inputs, gaussian_classes(50, 10, seed=4).train.inputs)


def test_blobs_are_four_classes_of_one_spread():
    train = gaussian_blobs(2000, 100, seed=0).train
    assert train.n_classes == 4
    assert train.inputs.shape == (2000, 5)
    spreads = torch.stack([train.inputs[train.targets == index].std(dim=0) for index in range(4)])
    assert float((spreads.max(dim=0).values / spreads.min(dim=0).values).max()) < 1.2


def test_digits_are_averaged_down_and_keep_their_ids(monkeypatch, digits_like_mnist):
    monkeypatch.setattr(data, "load_images", lambda *args, **kwargs: digits_like_mnist)
    split = small_digits(6, 3, 7, seed=0)
    whole = digits_like_mnist.train
    assert split.train.inputs.shape == (6, 49)
    for row, one in zip(split.train.inputs, split.train.ids, strict=True):
        image = whole.inputs[int(whole.positions(one)[0]), 0]
        blocks = image.reshape(7, 4, 7, 4).mean(dim=(1, 3))
        torch.testing.assert_close(row.reshape(7, 7), blocks)
    assert split.test.ids.tolist() == digits_like_mnist.test.ids[:3].tolist()
    assert np.all(np.diff(split.train.ids.numpy()) > 0)
