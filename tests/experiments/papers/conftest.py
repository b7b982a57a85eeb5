import pytest
import torch

from bayes_influence.data.dataset import Dataset, Split
from bayes_influence.experiments.papers import small_images


@pytest.fixture
def digits_like_mnist():
    """Twelve images to train on and four to test on, in MNIST's form."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(16, 1, 28, 28, generator=generator, dtype=torch.float64)
    whole = Dataset(images, torch.arange(16) % 10, torch.arange(100, 116), class_names=tuple("0123456789"))
    return Split(whole.select(range(12)), whole.select(range(12, 16)))


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
    monkeypatch.setattr(small_images.SmallImageStudy, "fetch", lambda study: None)
    return split
