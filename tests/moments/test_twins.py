import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from bayes_influence.models.lenet import LeNet
from bayes_influence.models.resnet import ResNet
from bayes_influence.moments import Moments, TwinMismatchError, UnsupportedOperationError, check_twin, to_bayesian
from bayes_influence.torch_internals import tree_flatten

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


class Custom(nn.Module):
    """Three layers, and a forward pass to be chosen."""

    def __init__(self, compute):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.compute = compute

    def forward(self, x):
        return self.compute(self, x)


def checked(compute, change=lambda network: None):
    network = Custom(compute)
    change(network)
    twin = to_bayesian(network)
    check_twin(network, twin, X)
    return network, twin


def test_factors_of_variances_that_are_zero_are_passed_over():
    network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    twin = to_bayesian(network, structure="calibrated")
    with torch.no_grad():
        twin[2].variance_factor.fill_(3.0)
    check_twin(network, twin, X)
    twin[2].register_buffer("other", torch.ones(2))
    with pytest.raises(ValueError, match=r"the twin's '2\.other' of shape \(2,\) is not in the network"):
        check_twin(network, twin, X)


@pytest.mark.parametrize("method", ["first-order", "exact", "gauss-hermite"])
@pytest.mark.parametrize("max_pooling", ["co-pooling", "clark"])
@pytest.mark.parametrize(
    ("network", "shape"),
    [(LeNet(seed=0), (1, 28, 28)), (ResNet(input_shape=(3, 8, 8), width=4, batch_norm=True, seed=0), (3, 8, 8))],
    ids=lambda value: type(value).__name__,
)
def test_the_models_of_the_library_are_their_twins(network, shape, method, max_pooling):
    twin = to_bayesian(network, method=method, max_pooling=max_pooling)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(0.1)  # as training does
    check_twin(network, twin, torch.randn(2, *shape))


def in_place_on_an_alias(net, x):
    h = net.first(x)
    skip = h
    h += 5
    return net.second(F.relu(h, inplace=True)) + skip


@pytest.mark.parametrize(
    "compute",
    [
        in_place_on_an_alias,
        lambda net, x: (net.third(x), {"hidden": net.first(x), "fixed": 2 * x}),
        lambda net, x: net.third(x).mean(-1),
        lambda net, x: net.third(x) * float("nan"),
        lambda net, x: 0 * net.third(x),
    ],
)
def test_networks_that_a_twin_follows_pass_and_are_followed(compute):
    network, twin = checked(compute)
    with torch.no_grad():
        for name, rho in twin.named_parameters():
            if name.endswith("_rho"):
                rho.fill_(-1e4)
        outputs, expected = (
            tree_flatten(each(X), is_leaf=lambda value: isinstance(value, Moments))[0] for each in (twin, network)
        )
    for output, value in zip(outputs, expected, strict=True):
        mean = output.expectation if isinstance(output, Moments) else output
        torch.testing.assert_close(mean, value, equal_nan=True)


def test_nothing_is_changed_and_no_random_number_is_taken():
    network = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 3)).train()
    network[0].requires_grad_(False)
    twin = to_bayesian(network)
    before = copy.deepcopy((network.state_dict(), twin.state_dict()))
    state = torch.get_rng_state()
    with torch.no_grad():
        check_twin(network, twin, Moments(X, torch.ones(5, 4)))
    assert torch.equal(torch.get_rng_state(), state)
    for network_or_twin, old in zip((network, twin), before, strict=True):
        assert network_or_twin.training
        assert not network_or_twin[0].weight.requires_grad
        assert not network_or_twin[3]._forward_hooks
        assert network_or_twin[3].weight.grad is None
        assert all(torch.equal(value, old[name]) for name, value in network_or_twin.state_dict().items())


def test_a_branch_on_the_type_of_a_value_is_noticed():
    with pytest.raises(TwinMismatchError, match=r"at sigma = 0 the twin's outputs differ .* by up to .*largest output"):
        checked(lambda net, x: net.third(x) if type(net.first(x)) is torch.Tensor else -net.third(x))
    with pytest.raises(TwinMismatchError, match="'first' is called 1 times by the network and 0 times by its twin"):
        checked(lambda net, x: net.third(x) + (net.first(x).sum() if type(net.third.weight) is nn.Parameter else 0))
    with pytest.raises(TwinMismatchError, match=r"output has the shape \(5, 3\), its network's \(3, 5\)"):
        checked(lambda net, x: h.mT if type(h := net.third(x)) is torch.Tensor else h)
    with pytest.raises(TwinMismatchError, match="has 1 outputs, its network 2"):
        checked(lambda net, x: (h, h) if type(h := net.third(x)) is torch.Tensor else h)


def test_a_lost_variance_is_noticed():
    with pytest.raises(TwinMismatchError, match="no output of the twin is Moments"):
        checked(lambda net, x: getattr(h := net.third(x), "expectation", h))


def test_weights_that_reach_the_outputs_by_another_way_are_noticed():
    def listed(network):
        network.kept = [network.first.weight]

    with pytest.raises(TwinMismatchError, match=r"'first\.weight' reaches the outputs otherwise than through the call"):
        checked(lambda net, x: F.linear(net.third(x), net.kept[0][:, :3]), listed)

    def frozen(network):
        network.first.requires_grad_(False)
        listed(network)

    with pytest.raises(TwinMismatchError, match=r"'first\.weight' reaches the outputs otherwise than through the call"):
        checked(lambda net, x: F.linear(net.third(x), net.kept[0][:, :3]), frozen)
    with pytest.raises(TwinMismatchError, match=r"'third\.bias' reaches the outputs otherwise"):
        checked(lambda net, x: net.third(x) + dict(net.third.named_parameters())["bias"])
    with pytest.raises(TwinMismatchError, match=r"'second\.weight' reaches the outputs otherwise"):
        checked(lambda net, x: net.third(x) * next(net.second.parameters()).norm())


def test_two_calls_of_a_layer_are_noticed_also_where_they_do_not_meet():
    with pytest.raises(TwinMismatchError, match="'third' is called 2 times in one pass"):
        checked(lambda net, x: (net.third(x), net.third(2 * x)))
    with pytest.raises(UnsupportedOperationError, match="'first' is called twice"):
        checked(lambda net, x: net.first(net.first(x)))


def test_a_network_that_is_no_function_of_its_inputs_is_refused():
    with pytest.raises(TwinMismatchError, match="Custom gives other outputs when it is called again"):
        checked(lambda net, x: F.dropout(net.third(x), training=True))


def test_a_twin_of_another_network_or_none_at_all_is_refused():
    network = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(ValueError, match="the twin, a Sequential, has no Bayesian layer"):
        check_twin(network, network, X)
    with pytest.raises(ValueError, match=r"'0\.weight' of shape \(2, 4\) is not in the network"):
        check_twin(network, to_bayesian(nn.Sequential(nn.Linear(4, 2))), X)
    with pytest.raises(ValueError, match=r"'1\.weight' of shape \(3, 3\) is not in the network"):
        check_twin(network, to_bayesian(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3))), X)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_have_their_own_tolerance(dtype):
    network = nn.Sequential(nn.Linear(4, 30), nn.GELU(), nn.Linear(30, 3)).to(dtype)
    check_twin(network, to_bayesian(network), X.to(dtype))
    wrong = copy.deepcopy(network)
    wrong[0].register_forward_hook(lambda module, inputs, output: 1.01 * output)
    if dtype == torch.float64:
        with pytest.raises(TwinMismatchError, match="at sigma = 0"):
            check_twin(wrong, to_bayesian(network), X.to(dtype))


def test_one_wrong_output_among_right_ones_is_noticed():
    """The root of single precision's rounding, 3.45e-4, of the largest output is allowed."""

    def shifted(by):
        def compute(net, x):
            h = net.third(x) * 0 + torch.tensor([8.0, 0.0, 0.0])
            return h if type(h) is torch.Tensor else h + torch.tensor([0.0, 0.0, by])

        return compute

    checked(shifted(2.7e-3))
    with pytest.raises(TwinMismatchError, match=r"by up to 0\.0028, where the largest output is 8"):
        checked(shifted(2.8e-3))
