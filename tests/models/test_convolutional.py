"""What every convolutional network has to do; each file of its own tests the architecture."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, jvp, vmap

from bayes_influence.models.initialisation import initial_params
from bayes_influence.models.lenet import LeNet
from bayes_influence.models.resnet import ResNet
from bayes_influence.models.vgg import VGG

SMALL = {
    "lenet": LeNet,
    "lenet-colour": lambda **options: LeNet(input_shape=(3, 32, 32), **options),
    "vgg11": lambda **options: VGG(11, width=1 / 64, dropout=0.0, **options),
    "vgg13-grey": lambda **options: VGG(13, input_shape=(1, 28, 28), width=1 / 64, dropout=0.0, **options),
    "resnet": lambda **options: ResNet(input_shape=(3, 8, 8), width=2, **options),
    "resnet-batch-norm": lambda **options: ResNet(input_shape=(3, 8, 8), width=2, batch_norm=True, **options),
}

pytestmark = pytest.mark.parametrize("make", SMALL.values(), ids=SMALL)


def inputs_for(network, n=2):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, *network.input_shape, generator=generator, dtype=torch.float64)


def test_same_seed_same_network_and_global_generator_untouched(make):
    before = torch.get_rng_state()
    first, second, other = make(seed=1), make(seed=1), make(seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    for name, value in first.named_parameters():
        assert torch.equal(value, second.get_parameter(name))
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


def test_outputs_of_an_example_do_not_depend_on_its_batch(make):
    network = make(seed=0).double().eval()
    inputs = inputs_for(network, 3)
    assert network(inputs).shape == (3, 10)
    torch.testing.assert_close(network(inputs)[1:2], network(inputs[1:2]))


def test_last_layer_is_the_last_module(make):
    network = make(n_outputs=7)
    assert isinstance(network[-1], nn.Linear)
    assert network[-1].out_features == 7


def test_no_module_works_in_place(make):
    assert not any(getattr(module, "inplace", False) for module in make().modules())


def test_ensemble_gradients_equal_those_of_the_members_alone(make):
    network = make(seed=0).double().eval()
    inputs, members = inputs_for(network), initial_params(make, [0, 1], torch.float64)

    def loss(params):
        return functional_call(network, params, (inputs,)).square().mean()

    together = vmap(grad(loss))(members)
    for index in range(2):
        alone = {name: value[index].clone().requires_grad_() for name, value in members.items()}
        expected = torch.autograd.grad(loss(alone), list(alone.values()))
        for name, value in zip(alone, expected, strict=True):
            torch.testing.assert_close(together[name][index], value)


def test_hessian_vector_products_forward_over_reverse(make):
    network = make(seed=0).double().eval()
    inputs = inputs_for(network)
    params = {name: value.detach() for name, value in network.named_parameters()}
    direction = {name: torch.ones_like(value) for name, value in params.items()}

    def loss(params):
        return functional_call(network, params, (inputs,)).square().mean()

    _, product = jvp(grad(loss), (params,), (direction,))
    variables = {name: value.clone().requires_grad_() for name, value in params.items()}
    first = torch.autograd.grad(loss(variables), list(variables.values()), create_graph=True)
    expected = torch.autograd.grad(sum(value.sum() for value in first), list(variables.values()))
    for name, value in zip(variables, expected, strict=True):
        torch.testing.assert_close(product[name], value)


def test_wrong_input_shape_names_network_and_shape(make):
    network = make()
    shape = ", ".join(map(str, network.input_shape))
    with pytest.raises(ValueError, match=rf"expects inputs of shape \(B, {shape}\), got \(2, 5, 5\)"):
        network(torch.zeros(2, 5, 5))


def test_unknown_activation(make):
    with pytest.raises(ValueError, match="unknown activation 'swish'"):
        make(activation="swish")
