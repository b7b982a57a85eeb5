import torch
from torch import nn

from bayes_influence.objectives.head import Head, layer_path


def test_a_layer_keeps_the_name_of_its_parameters():
    layer, rest = nn.Linear(3, 2), {"body.0.weight": torch.ones(3, 4), "body.1.bias": torch.ones(3)}
    head = Head("body.1.out", layer, rest)
    assert set(dict(head.named_parameters())) == {
        "body.1.out.weight",
        "body.1.out.bias",
        "body.0.weight",
        "body.1.bias",
    }
    assert head.get_parameter("body.1.out.weight") is layer.weight
    features = torch.randn(5, 3)
    assert torch.equal(head(features), layer(features))


def test_the_path_of_a_layer_and_of_what_is_one_itself():
    layer = nn.Linear(3, 2)
    assert layer_path(Head("body.1.out", layer, {})) == "body.1.out"
    assert layer_path(layer) == ""
