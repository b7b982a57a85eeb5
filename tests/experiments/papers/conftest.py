import pytest
import torch

from bayes_influence.data.dataset import Dataset, Split


@pytest.fixture
def digits_like_mnist():
    """Twelve images to train on and four to test on, in MNIST's form."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(16, 1, 28, 28, generator=generator, dtype=torch.float64)
    whole = Dataset(images, torch.arange(16) % 10, torch.arange(100, 116), class_names=tuple("0123456789"))
    return Split(whole.select(range(12)), whole.select(range(12, 16)))
