"""Networks that take several arguments."""

import pytest
import torch
from torch import nn
from torch.func import grad, vmap

import bayes_influence as bi
from bayes_influence.data.arguments import Arguments, as_call
from bayes_influence.torch_internals import tree_leaves, tree_map


def test_a_call_by_position_and_by_name():
    x, y = torch.ones(3), torch.zeros(3)
    assert as_call(Arguments(x, scale=y, bias=None)) == ((x,), {"scale": y})
    assert as_call(x) == ((x,), {})
    assert as_call({"a": x}) == (({"a": x},), {})


def test_leaves_are_the_tensors_and_survive_a_transformation():
    inputs = Arguments(torch.ones(4, 2), mask=torch.arange(4.0))
    assert [leaf.shape for leaf in tree_leaves(inputs)] == [(4, 2), (4,)]
    half = tree_map(lambda leaf: leaf[:2], inputs)
    assert isinstance(half, Arguments)
    assert half.kwargs["mask"].tolist() == [0.0, 1.0]
    assert "mask" in repr(inputs)
    sums = vmap(lambda one: one.args[0].sum() * one.kwargs["mask"])(inputs)
    assert sums.tolist() == [0.0, 2.0, 4.0, 6.0]
    slope = grad(lambda one: (one.args[0].sum(1) * one.kwargs["mask"]).sum())(inputs)
    assert slope.kwargs["mask"].tolist() == [2.0] * 4


class _Gated(nn.Module):
    """Takes two arguments, one by name."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x, *, gate):
        return self.head(torch.tanh(self.body(x)) * gate)


class _OneArgument(nn.Module):
    """The same network, taking both as the columns of one tensor."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, both):
        return self.network(both[:, :3], gate=both[:, 3:])


@pytest.mark.parametrize("parameters", ["last-layer", "all"])
def test_influence_is_that_of_the_same_network_with_one_argument(parameters):
    generator = torch.Generator().manual_seed(0)
    x, gate = torch.randn(30, 3, generator=generator), torch.rand(30, 1, generator=generator)
    targets, network = (x[:, 0] > 0).long(), _Gated()
    several = bi.Dataset(Arguments(x, gate=gate), targets, torch.arange(30))
    one = bi.Dataset(torch.cat([x, gate], dim=1), targets, torch.arange(30))
    options = {"parameters": parameters, "damping": 0.5}
    scores = bi.Influence(bi.Objective(network, bi.CrossEntropy()), several, **options).on_loss(several.select([0, 1]))
    same = bi.Influence(bi.Objective(_OneArgument(network), bi.CrossEntropy()), one, **options).on_loss(
        one.select([0, 1])
    )
    torch.testing.assert_close(scores.values, same.values, rtol=1e-9, atol=1e-12)
    assert scores.values.abs().max() > 1e-3
