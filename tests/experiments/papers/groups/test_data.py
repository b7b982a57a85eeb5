import pytest
import torch

from bayes_influence.experiments.papers.groups.data import SEPARATION, gaussian_blobs, gaussian_classes


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
