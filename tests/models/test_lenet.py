import pytest
import torch
from torch import nn

from bayes_influence.models.lenet import LeNet


def test_layers():
    network = LeNet()
    assert [tuple(module.weight.shape) for module in network if isinstance(module, nn.Conv2d)] == [
        (6, 1, 5, 5),
        (16, 6, 5, 5),
        (120, 16, 5, 5),
    ]
    assert [tuple(module.weight.shape) for module in network if isinstance(module, nn.Linear)] == [(84, 120), (10, 84)]
    assert sum(isinstance(module, nn.Tanh) for module in network) == 4
    assert sum(isinstance(module, nn.AvgPool2d) for module in network) == 2
    assert sum(value.numel() for value in network.parameters()) == 61_706


def test_small_images_are_padded_with_zeros():
    small, large = LeNet(seed=0), LeNet(input_shape=(1, 32, 32), seed=0)
    images = torch.randn(2, 1, 28, 28)
    torch.testing.assert_close(small(images), large(nn.functional.pad(images, (2, 2, 2, 2))))


@pytest.mark.parametrize("shape", [(1, 30, 30), (1, 28, 32), (28, 28)])
def test_images_of_another_size(shape):
    with pytest.raises(ValueError, match=r"LeNet takes images of shape \(channels, 28, 28\) or \(channels, 32, 32\)"):
        LeNet(input_shape=shape)
