import pytest
import torch

from bayes_influence.data.dataset import Dataset, Split
from bayes_influence.experiments.papers import small_images
from bayes_influence.experiments.papers.understanding import paired_digits


@pytest.fixture
def patterns(monkeypatch):
    """160 noisy images of three patterns to train on and 60 to test on, where the studies look for MNIST's."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(3, 1, 4, 4, generator=generator, dtype=torch.float64)
    targets = torch.arange(220) % 3
    noisy = coarse[targets] + 0.4 * torch.randn(220, 1, 4, 4, generator=generator, dtype=torch.float64)
    images = noisy.clamp(0, 1).repeat_interleave(7, dim=2).repeat_interleave(7, dim=3)
    whole = Dataset(images, targets, torch.arange(500, 720), name="patterns", class_names=("a", "b", "c"))
    split = Split(whole.select(range(160)), whole.select(range(160, 220)))
    monkeypatch.setattr(small_images, "load_images", lambda *args, **kwargs: split)
    return split


@pytest.fixture
def pair(monkeypatch, patterns):
    """The first and the last of the patterns, where the studies look for a pair of digits."""
    monkeypatch.setattr(paired_digits, "PAIR", (0, 2))
    monkeypatch.setattr(paired_digits, "IMAGES_PER_PAIRED", 3)
    return patterns
