import pytest
import torch
from torch import nn

from bayes_influence.objectives.layers import is_layer, is_transposed
from bayes_influence.objectives.parameters import select_names
from tests.tiny_transformers import Conv1D, TinyGPT, TinyViT


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(2))


Odd.__name__ = "Conv1D"


@pytest.mark.parametrize("layer", [nn.Linear(2, 3), nn.Conv1d(2, 3, 1), nn.Conv2d(2, 3, 1), nn.Conv3d(2, 3, 1)])
def test_layers(layer):
    assert is_layer(layer)
    assert not is_transposed(layer)


def test_gpt_2s_layer_is_transposed():
    assert is_layer(Conv1D(2, 3))
    assert is_transposed(Conv1D(2, 3))


@pytest.mark.parametrize(
    "other",
    [
        Doubled(2, 3),
        nn.Conv2d(2, 2, 1, groups=2),
        nn.ConvTranspose2d(2, 2, 1),
        nn.LayerNorm(2),
        nn.Embedding(2, 3),
        Odd(),
    ],
)
def test_what_is_none(other):
    assert not is_layer(other)


def test_the_layers_of_a_network():
    names = select_names(TinyGPT(), "layers")
    inner = [
        f"block.{layer}.{role}" for layer in ("attention", "projection", "up", "down") for role in ("weight", "bias")
    ]
    assert list(names) == [*inner, "head.weight"]
    assert list(select_names(TinyGPT(tied=True), "layers")) == inner
    assert {"patches.weight", "head.bias"} < set(select_names(TinyViT(), "layers"))
    with pytest.raises(ValueError, match=r"parameters='layers' leaves nothing: no module is one of nn[.]Linear"):
        select_names(nn.LayerNorm(3), "layers")


def test_a_transposed_layer_has_no_parameters_but_its_own_two():
    layer = Conv1D(2, 3)
    layer.gate = nn.Linear(3, 3)
    assert not is_transposed(layer)
