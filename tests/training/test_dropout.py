import pytest
import torch
from torch import nn

from bayes_influence.models.lenet import LeNet
from bayes_influence.models.mlp import MLP
from bayes_influence.training.deterministic import Dropout
from bayes_influence.training.dropout import DroppedLinear, with_dropout


def test_every_linear_layer_but_the_first_layer_drops_inputs():
    twin = with_dropout(MLP(3, 2, width=4, depth=2), 0.4)
    assert [type(layer) for layer in twin] == [nn.Linear, nn.SELU, DroppedLinear, nn.SELU, DroppedLinear]
    convolutional = with_dropout(LeNet())
    assert [type(layer) for layer in convolutional if isinstance(layer, nn.Linear)] == [DroppedLinear] * 2


def test_names_values_and_predictions_are_the_networks():
    network = MLP(3, 2, width=4, seed=0)
    twin = with_dropout(network).eval()
    assert twin[2].dropout.p == 0.2
    x = torch.randn(5, 3)
    assert list(dict(twin.named_parameters())) == list(dict(network.named_parameters()))
    torch.testing.assert_close(twin(x), network(x))
    assert twin[2].weight is not network[2].weight


def test_inputs_are_dropped_in_training_with_the_given_probability():
    layer = DroppedLinear(nn.Linear(10_000, 1, bias=False), 0.3).train()
    nn.init.ones_(layer.weight)
    kept = layer(torch.ones(10_000)).detach() * 0.7 / 10_000
    assert abs(float(kept) - 0.7) < 5 * (0.3 * 0.7 / 10_000) ** 0.5


def test_nothing_to_drop_and_a_probability_out_of_range_are_refused():
    with pytest.raises(ValueError, match="MLP has no fully connected layer behind its first layer"):
        with_dropout(MLP(3, 2, depth=0))
    for probability in (0.0, 1.0):
        with pytest.raises(ValueError, match=rf"must lie in \(0, 1\), got {probability}"):
            with_dropout(MLP(3, 2), probability)
        with pytest.raises(ValueError, match=rf"scheme one must lie in \(0, 1\), got {probability}"):
            Dropout("one", probability=probability)
