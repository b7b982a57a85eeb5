import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, hessian, vmap

from bayes_influence.models.activations import ACTIVATIONS, activation_module
from bayes_influence.models.initialisation import initial_params
from bayes_influence.models.mlp import MLP


def test_layers_and_parameter_names():
    network = MLP(4, 3, width=7, depth=2)
    assert [type(module) for module in network] == [nn.Linear, nn.SELU, nn.Linear, nn.SELU, nn.Linear]
    assert {name: tuple(value.shape) for name, value in network.named_parameters()} == {
        "0.weight": (7, 4),
        "0.bias": (7,),
        "2.weight": (7, 7),
        "2.bias": (7,),
        "4.weight": (3, 7),
        "4.bias": (3,),
    }


def test_output_is_the_composition_of_its_layers():
    network = MLP(4, 3, width=6, depth=1, activation="tanh", seed=1).double()
    inputs = torch.randn(5, 4, dtype=torch.float64)
    hidden = torch.tanh(inputs @ network[0].weight.T + network[0].bias)
    torch.testing.assert_close(network(inputs), hidden @ network[2].weight.T + network[2].bias)


def test_depth_zero_is_linear():
    network = MLP(4, 3, depth=0, seed=0)
    assert [type(module) for module in network] == [nn.Linear]


def test_shaped_inputs_are_flattened():
    network = MLP((1, 4, 4), 3, seed=0)
    flat = MLP(16, 3, seed=0)
    images = torch.randn(2, 1, 4, 4)
    torch.testing.assert_close(network(images), flat(images.flatten(1)))


def test_same_seed_same_network_and_global_generator_untouched():
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first, second, other = MLP(4, 3, seed=5), MLP(4, 3, seed=5), MLP(4, 3, seed=6)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first[0].weight, second[0].weight)
    assert not torch.equal(first[0].weight, other[0].weight)


def test_seed_is_torch_manual_seed():
    torch.manual_seed(5)
    assert torch.equal(MLP(4, 3)[0].weight, MLP(4, 3, seed=5)[0].weight)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_safe_under_vmap_grad_and_hessian(activation):
    network = MLP(2, 2, width=2, activation=activation, seed=0).double()
    stacked = initial_params(lambda: MLP(2, 2, width=2, activation=activation), [0, 1], torch.float64)
    inputs = torch.tensor([[0.3, -0.7], [1.1, 0.2]], dtype=torch.float64)

    def loss(params):
        return functional_call(network, params, (inputs,)).square().sum()

    gradients = vmap(grad(loss))(stacked)
    for index in range(2):
        alone = {name: value[index].clone().requires_grad_() for name, value in stacked.items()}
        expected = torch.autograd.grad(loss(alone), list(alone.values()))
        for name, value in zip(alone, expected, strict=True):
            torch.testing.assert_close(gradients[name][index], value)
    curvature = vmap(hessian(loss))(stacked)["0.weight"]["0.weight"]
    assert curvature.shape == (2, 2, 2, 2, 2)
    torch.testing.assert_close(curvature, curvature.permute(0, 3, 4, 1, 2))


def test_unknown_activation_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown activation 'swish'; known: celu, .*selu.*tanh"):
        activation_module("swish")
    with pytest.raises(ValueError, match="unknown activation"):
        MLP(4, 3, activation="SELU")


@pytest.mark.parametrize("sizes", [{"n_inputs": 0}, {"n_outputs": 0}, {"width": 0}, {"depth": -1}, {"n_inputs": ()}])
def test_sizes_out_of_range(sizes):
    with pytest.raises(ValueError, match="of at least 1 and a depth of at least 0"):
        MLP(**{"n_inputs": 4, "n_outputs": 3, **sizes})


def test_wrong_input_shape_names_the_wanted_one():
    with pytest.raises(ValueError, match=r"MLP expects inputs of shape \(B, 4\), got \(2, 5\)"):
        MLP(4, 3)(torch.zeros(2, 5))
    with pytest.raises(ValueError, match=r"inputs of shape \(B, 1, 4, 4\), got \(2, 16\)"):
        MLP((1, 4, 4), 3)(torch.zeros(2, 16))
