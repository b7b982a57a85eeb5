import pytest
import torch
from torch import nn

from bayes_influence.models.vgg import VGG


def channels(network):
    return [module.out_channels for module in network if isinstance(module, nn.Conv2d)]


def test_vgg13_is_the_published_network():
    with torch.device("meta"):
        network = VGG(13)
    assert channels(network) == [64, 64, 128, 128, 256, 256, 512, 512, 512, 512]
    linear = [module for module in network if isinstance(module, nn.Linear)]
    assert [layer.out_features for layer in linear] == [4096, 4096, 1000, 10]
    assert linear[0].in_features == 512
    assert sum(isinstance(module, nn.MaxPool2d) for module in network) == 5
    assert isinstance(network[-2], nn.Dropout)


@pytest.mark.parametrize(("depth", "convolutions"), [(11, 8), (13, 10), (16, 13), (19, 16)])
def test_depth_counts_the_layers_with_weights_of_the_published_family(depth, convolutions):
    assert len(channels(VGG(depth, width=1 / 64))) == convolutions == depth - 3


def test_width_scales_every_layer():
    network = VGG(11, width=1 / 8)
    assert channels(network) == [8, 16, 32, 32, 64, 64, 64, 64]
    assert [module.out_features for module in network if isinstance(module, nn.Linear)] == [512, 512, 125, 10]


def test_images_are_padded_with_zeros_to_a_multiple_of_32():
    small = VGG(11, input_shape=(1, 28, 60), width=1 / 32, seed=0).eval()
    large = VGG(11, input_shape=(1, 32, 64), width=1 / 32, seed=0).eval()
    images = torch.randn(2, 1, 28, 60)
    torch.testing.assert_close(small(images), large(nn.functional.pad(images, (2, 2, 2, 2))))


def test_dropout_acts_in_training_mode_only():
    network = VGG(11, width=1 / 32, dropout=0.5, seed=0)
    images = torch.randn(2, 3, 32, 32)
    assert not torch.equal(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))


def test_what_passes_through_relus_keeps_its_size_from_the_start():
    """Means of squares, whose average over weights He's variance keeps; PyTorch's own divides by six in every layer."""
    network = VGG(13, width=1 / 4, dropout=0.0, seed=0).eval()
    values = torch.randn(20, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for layer in list(network)[:-1]:
        values = layer(values)
        if isinstance(layer, nn.Conv2d | nn.Linear):
            assert not layer.bias.any()
            fan_in = layer.weight[0].numel()
            assert layer.weight.var().item() == pytest.approx(2 / fan_in, rel=0.15)
    assert 0.05 < values.square().mean() < 20


def test_other_activations_start_as_pytorch_has_them():
    layer = VGG(11, width=1 / 8, activation="tanh", seed=0)[0]
    assert layer.bias.any()
    assert layer.weight.abs().max() <= (1 / layer.weight[0].numel()) ** 0.5


def test_arguments_out_of_range():
    with pytest.raises(ValueError, match="unknown VGG12; known depths: 11, 13, 16, 19"):
        VGG(12)
    with pytest.raises(ValueError, match="positive width and at least one output, got width=0"):
        VGG(11, width=0)
    with pytest.raises(ValueError, match=r"must be even, .* got \(27, 27\)"):
        VGG(11, input_shape=(1, 27, 27))
    with pytest.raises(ValueError, match=r"must be \(channels, height, width\), got \(28, 28\)"):
        VGG(11, input_shape=(28, 28))
