import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, hessian, vmap

from bayes_influence.moments import Approximation, Moments, fan_in_sigma, is_bayesian, to_bayesian
from bayes_influence.moments.layers import BayesianLinear

DOUBLE = torch.float64


def converted(layer, **options):
    return BayesianLinear(layer, Approximation("exact"), fan_in_sigma(0.6), **options)


def test_parameters_stand_in_the_documented_order_with_the_documented_values():
    layer = nn.Linear(4, 3)
    twin = converted(layer)
    assert [name for name, _ in twin.named_parameters()] == ["weight", "bias", "weight_rho", "bias_rho"]
    assert torch.equal(twin.weight, layer.weight)
    assert twin.weight is not layer.weight
    assert torch.allclose(twin.weight_rho.exp(), torch.full((3, 4), 0.3))
    assert torch.allclose(twin.bias_rho.exp(), torch.full((3,), 0.3))
    assert [name for name, _ in converted(nn.Linear(4, 3, bias=False)).named_parameters()] == ["weight", "weight_rho"]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("random_input", [True, False])
def test_moments_are_those_of_sampled_weights(bias, random_input, draw, assert_match):
    layer = nn.Linear(4, 3, bias=bias, dtype=DOUBLE)
    twin, n = converted(layer), 100_000
    x = Moments(torch.randn(2, 4, dtype=DOUBLE), torch.rand(2, 4, dtype=DOUBLE))
    result = twin(x if random_input else x.expectation)
    parts = {name: draw(Moments(p, torch.full_like(p, 0.09)), n) for name, p in layer.named_parameters()}
    inputs = draw(x, n) if random_input else x.expectation.expand(n, 2, 4)
    assert_match(result, vmap(lambda p, z: functional_call(layer, p, (z,)))(parts, inputs).detach())
    assert result.approximation == Approximation("exact")


def test_goes_back_to_the_deterministic_layer():
    layer = nn.Linear(4, 3, bias=False, dtype=DOUBLE)
    back = converted(layer).deterministic()
    assert type(back) is nn.Linear
    assert torch.equal(back.weight, layer.weight)
    assert back.bias is None
    x = torch.randn(2, 4, dtype=DOUBLE)
    assert torch.equal(back(x), layer(x))


def test_frozen_parameters_stay_frozen():
    layer = nn.Linear(4, 3).requires_grad_(False)
    twin = converted(layer)
    assert not any(p.requires_grad for p in twin.parameters())
    assert not any(p.requires_grad for p in twin.deterministic().parameters())


def test_derivatives_in_rho_against_the_closed_form():
    twin = converted(nn.Linear(2, 1, bias=False, dtype=DOUBLE))
    params = {name: value.detach() for name, value in twin.named_parameters()}
    x = torch.tensor([[1.0, 2.0]], dtype=DOUBLE)

    def variance(rho):
        return functional_call(twin, {**params, "weight_rho": rho}, (x,)).variance.sum()

    rho = params["weight_rho"]
    expected = 2 * x.square() * torch.exp(2 * rho)
    assert torch.allclose(grad(variance)(rho), expected)
    assert torch.allclose(hessian(variance)(rho).reshape(2, 2), torch.diag(2 * expected[0]))


def test_a_wrong_input_names_the_layer_and_what_it_wants():
    twin = converted(nn.Linear(4, 3), path="head.2")
    with pytest.raises(ValueError, match=r"layer 'head\.2' takes inputs of shape \(\.\.\., 4\), got \(2, 5\)"):
        twin(torch.zeros(2, 5))
    with pytest.raises(
        TypeError, match=r"layer 'head\.2' has weights of torch.float32, got inputs of torch.float64; con"
    ):
        twin(torch.zeros(2, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match="layer 'BayesianLinear' takes inputs"):
        converted(nn.Linear(4, 3))(Moments(torch.zeros(5), torch.ones(5)))


def test_sigmas_must_be_positive_and_of_the_right_shape():
    with pytest.raises(ValueError, match=r"positive, finite values of shape \(3, 4\)"):
        BayesianLinear(nn.Linear(4, 3), Approximation(), lambda mean, fan_in: torch.zeros_like(mean))
    with pytest.raises(ValueError, match=r"got shape \(2,\)"):
        BayesianLinear(nn.Linear(4, 3), Approximation(), lambda mean, fan_in: torch.ones(2))


def test_is_printed_with_its_sizes():
    assert "4, 3, bias=True" in repr(converted(nn.Linear(4, 3)))


def test_a_network_is_bayesian_where_any_of_its_layers_is():
    network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Sequential(nn.Linear(3, 2)))
    assert not is_bayesian(network)
    assert is_bayesian(to_bayesian(network))
    assert is_bayesian(nn.Sequential(nn.Linear(4, 4), converted(nn.Linear(4, 3))))
    assert is_bayesian(converted(nn.Linear(4, 3)))
