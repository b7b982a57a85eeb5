import pytest
import torch
from torch import nn

from bayes_influence.models.resnet import ResidualBlock, ResNet


def test_resnet20_has_20_layers_of_weights_and_two_shortcuts():
    network = ResNet(blocks_per_stage=3)
    weighted = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    shortcuts = [module for module in weighted if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)]
    assert len(weighted) - len(shortcuts) == 20
    assert len(shortcuts) == 2


def test_stages_halve_the_image_and_double_the_channels():
    network = ResNet(width=4, blocks_per_stage=2)
    features = torch.randn(1, 3, 32, 32)
    shapes = []
    for module in network:
        features = module(features)
        if isinstance(module, ResidualBlock):
            shapes.append(tuple(features.shape[1:]))
    assert shapes == [(4, 32, 32)] * 2 + [(8, 16, 16)] * 2 + [(16, 8, 8)] * 2


def test_block_adds_its_branch_to_the_shortcut():
    block = ResidualBlock(2, 2, 1, "identity", batch_norm=False)
    images = torch.randn(1, 2, 4, 4)
    torch.testing.assert_close(block(images) - images, block.branch(images))


def test_batch_norm_replaces_the_biases_of_convolutions():
    network = ResNet(batch_norm=True)
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert all(module.bias is None for module in convolutions)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in network.modules()) == len(convolutions)


def test_sizes_out_of_range():
    with pytest.raises(ValueError, match=r"sides of at least 4, got \(3, 2, 8\)"):
        ResNet(input_shape=(3, 2, 8))
    with pytest.raises(ValueError, match=r"at least 1, got 10, 0 and 16"):
        ResNet(blocks_per_stage=0)
