import copy

import torch
from torch import nn

from bayes_influence.data.dataset import Dataset
from bayes_influence.moments.convert import to_bayesian
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.members import stack_members
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import detached_params
from bayes_influence.training.batch_norm import refreshed_buffers

DATA = Dataset(torch.randn(30, 3, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 2, torch.arange(30))


def network():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2))


def buffers_of(net):
    return stack_members([dict(net.named_buffers())])


def test_statistics_are_those_that_torch_refreshes():
    net = network()
    with torch.no_grad():
        net[1].running_mean.fill_(7.0)
    params = stack_members([detached_params(net)])
    ours = refreshed_buffers(Objective(net, CrossEntropy()), params, buffers_of(net), DATA, 10)
    theirs = copy.deepcopy(net)
    torch.optim.swa_utils.update_bn([batch.inputs for batch in DATA.batches(10)], theirs)
    for name, value in theirs.named_buffers():
        torch.testing.assert_close(ours[name][0], value)
    assert net[1].running_mean[0] == 7.0


def test_networks_without_batch_norm_and_bayesian_ones_keep_their_buffers():
    plain = nn.Sequential(nn.Linear(3, 2))
    plain.register_buffer("constant", torch.ones(2))
    for net in (plain, to_bayesian(network().eval())):
        buffers = buffers_of(net)
        params = stack_members([detached_params(net)])
        after = refreshed_buffers(Objective(net, CrossEntropy()), params, buffers, DATA, 10)
        assert all(torch.equal(after[name], value) for name, value in buffers.items())


def test_every_example_counts_alike_whatever_the_last_batch_is():
    """31 examples in batches of at most 10 are four batches of 8, 8, 8 and 7: none is a single example."""
    data = Dataset(torch.randn(31, 3), torch.arange(31) % 2, torch.arange(31))
    net = network()
    params = stack_members([detached_params(net)])
    ours = refreshed_buffers(Objective(net, CrossEntropy()), params, buffers_of(net), data, 10)
    hidden = net[0](data.inputs).detach()
    torch.testing.assert_close(ours["1.running_mean"][0], hidden.mean(0))
    parts = hidden.split([8, 8, 8, 7])
    within = sum(len(part) * part.var(0) for part in parts) / 31
    torch.testing.assert_close(ours["1.running_var"][0], within)
