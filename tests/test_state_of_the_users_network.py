"""After every call the user's network is as it was, and torch's generators are."""

import pytest
import torch
from torch import nn

import bayes_influence as bi
from bayes_influence.curvature.operators.ekfac import EKFAC
from bayes_influence.data.synthetic import logistic_classes
from bayes_influence.moments import (
    check_twin,
    diagonal_moments,
    linearized_moments,
    moment_check,
    sampled_moments,
    to_bayesian,
    to_deterministic,
)
from bayes_influence.objectives.members import stack_members
from bayes_influence.objectives.reduction import reduce
from bayes_influence.retraining.held_out import held_out_losses
from bayes_influence.training.minibatch import train_minibatches
from bayes_influence.training.minibatch_schedule import MinibatchSchedule
from bayes_influence.training.minimum import minimised

WHOLE = logistic_classes(36, n_features=3, n_classes=3, seed=1).dataset
TRAIN, TEST = WHOLE.select(range(30)), WHOLE.select(range(30, 36))
SHORT = bi.Schedule(epochs=3)


def make_network():
    """Everything that a call could disturb: noise, running statistics, a frozen layer, a hook, a buffer, a gradient."""
    torch.manual_seed(5)
    network = nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Dropout(0.3), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)
    ).double()
    network.register_buffer("drawn", torch.rand(3).double())
    network[4].requires_grad_(False)
    network[2].register_forward_hook(lambda module, args, output: 2 * output)
    network[0].weight.grad = torch.ones_like(network[0].weight)
    network(TRAIN.inputs)
    network[3].eval()
    return network


def objective(network):
    return bi.Objective(network, bi.CrossEntropy(), bi.WeightDecay(0.5))


def influence(network, **options):
    return bi.Influence(objective(network), TRAIN, damping=1.0, **options)


def scheme(name):
    return bi.find_schemes([name])[0]


def refit(protocol, network):
    return protocol.refit(objective(network), TRAIN, torch.tensor([3, 4]))


def minibatches(network):
    one = objective(network)
    return train_minibatches(one, stack_members([one.params]), TRAIN, MinibatchSchedule(2, 10), [0])


def scratch(network):
    plain = scheme("weight-decay")
    (fit,) = bi.fit_schemes([plain], lambda: network, TRAIN, [0], SHORT, parameters="all", tolerance=None)
    return bi.FromScratch(plain, lambda: network, SHORT).refit(fit, TRAIN, torch.tensor([3]))


CALLS = {
    "Objective": lambda network: objective(network).losses(objective(network).params, TRAIN.batch()),
    "reduce": lambda network: reduce(objective(network), TRAIN),
    "Influence": lambda network: influence(network).on_loss(TEST),
    "Influence, last layer": lambda network: influence(network, parameters="last-layer").on_loss(TEST),
    "Influence, EK-FAC": lambda network: influence(network, curvature=EKFAC(allow_fallback=True)).on_loss(TEST),
    "Influence, forward": lambda network: influence(network, scoring="forward").on_loss(TEST),
    "of_group": lambda network: influence(network).of_group([1, 2]).on_loss(TEST),
    "of_perturbation": lambda network: influence(network).of_perturbation([1], TEST),
    "self_influence": lambda network: influence(network).self_influence(),
    "minimised": lambda network: minimised(objective(network), TRAIN, tolerance=1e-2),
    "train_minibatches": minibatches,
    "Warm": lambda network: refit(bi.Warm(SHORT), network),
    "FromScratch": scratch,
    "PBRF": lambda network: refit(bi.LinearResponse(1.0), network),
    "held_out_losses": lambda network: held_out_losses(WHOLE, [1, 2], lambda: network, scheme("none"), SHORT),
    "select_group": lambda network: influence(network).select_group(TEST, 2),
    "on_measurement": lambda network: influence(network).on_measurement(bi.Margin(), TEST),
    "largest_losses": lambda network: bi.largest_losses(objective(network), TRAIN, 3),
    "to_bayesian": lambda network: to_deterministic(to_bayesian(network)),
}
SCHEMES = ["none", "weight-decay", "swa", "dropout"]
CALLS |= {
    f"fit_schemes, {name}": lambda network, name=name: bi.fit_schemes(
        [scheme(name)], lambda: network, TRAIN, [0], SHORT, tolerance=None
    )
    for name in SCHEMES
}


def state_of(network):
    """Everything that belongs to a network, by name."""
    found = {}
    for path, module in network.named_modules():
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
        found[path] = (type(module), module.training, [list(each) for each in hooks], sorted(vars(module)))
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        gradient = None if tensor.grad is None else tensor.grad.clone()
        found[f"tensor {name}"] = (id(tensor), tensor.clone(), tensor.requires_grad, gradient, tensor.dtype)
    return found


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, parts in one.items():
        for mine, theirs in zip(parts, other[name], strict=True):
            if isinstance(mine, torch.Tensor):
                assert torch.equal(mine, theirs), name
            else:
                assert mine == theirs, name


@pytest.mark.parametrize("call", CALLS)
def test_the_users_network_and_the_generators_are_as_they_were(call):
    network = make_network()
    before, generator = state_of(network), torch.get_rng_state()
    CALLS[call](network)
    assert_same(before, state_of(network))
    assert torch.equal(torch.get_rng_state(), generator)


TWIN_CALLS = {
    "check_twin": lambda network, twin: check_twin(network, twin, TRAIN.inputs),
    "moment_check": lambda network, twin: moment_check(twin, TRAIN.inputs, n_samples=3),
    "diagonal": lambda network, twin: diagonal_moments(twin, TRAIN.inputs),
    "linearized": lambda network, twin: linearized_moments(twin, TRAIN.inputs),
    "sampled": lambda network, twin: sampled_moments(twin, TRAIN.inputs, n_samples=3),
    "Influence": lambda network, twin: bi.Influence(
        bi.Objective(twin, bi.TiltedCategorical(), bi.GaussianKL(30)), TRAIN, damping=1.0
    ).on_loss(TEST),
    "fit_schemes": lambda network, twin: bi.fit_schemes(
        [scheme("bnn")], lambda: network, TRAIN, [0], SHORT, tolerance=None
    ),
}


@pytest.mark.parametrize("call", TWIN_CALLS)
def test_twins_and_their_networks_are_as_they_were(call):
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Dropout(0.3), nn.Linear(4, 3)).double()
    network(TRAIN.inputs)
    twin = to_bayesian(network)
    twin.eval()
    before, generator = (state_of(network), state_of(twin)), torch.get_rng_state()
    TWIN_CALLS[call](network, twin)
    assert_same(before[0], state_of(network))
    assert_same(before[1], state_of(twin))
    assert torch.equal(torch.get_rng_state(), generator)
