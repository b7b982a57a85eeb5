import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import bayes_influence as bi
from bayes_influence.objectives.company import first_outputs
from bayes_influence.objectives.hidden import KeptState, aliases, as_view_of, unregistered_tensors

X = torch.linspace(-1, 1, 15, dtype=torch.float64).reshape(5, 3)
DATA = bi.Dataset(X, torch.tensor([0, 1, 0, 1, 1]), torch.arange(5))


class Net(nn.Module):
    """A body and a head; `rule` is the forward pass, `hold` keeps something at the end of the making."""

    def __init__(self, rule, hold=lambda net: None):
        super().__init__()
        self.body, self.head = nn.Linear(3, 2), nn.Linear(2, 2)
        self.double()
        self.held = hold(self)
        self.rule = rule

    def forward(self, x):
        return self.rule(self, torch.tanh(self.body(x)))


def hooked(*, detached):
    net = Net(lambda net, h: net.head(h))
    outside = net.head.weight.detach() if detached else None

    def add(_, args, output, module=net.head):
        weight = module.weight if outside is None else module.weight.detach()
        return output + weight.sum(1)

    net.head.register_forward_hook(add)
    return net


def patched():
    net = Net(lambda net, h: net.head(h))
    net.head.forward = lambda x, layer=net.head: nn.functional.linear(x, layer.weight, layer.bias)
    return net


HIDDEN = {
    "in a list": lambda: Net(lambda net, h: net.head(h) + h @ net.held[0].T, lambda net: [net.head.weight]),
    "in a dictionary": lambda: Net(
        lambda net, h: net.head(h) + h @ net.held["w"].T, lambda net: {"w": net.head.weight}
    ),
    "a view as an attribute": lambda: Net(lambda net, h: net.head(h) + h @ net.held, lambda net: net.head.weight.t()),
    "a view of its data": lambda: Net(lambda net, h: net.head(h) + h @ net.held, lambda net: net.head.weight.data.t()),
    "without a derivative": lambda: Net(
        lambda net, h: net.head(h) + h @ net.held[0].detach(), lambda net: [net.head.weight]
    ),
    "in a hook": lambda: hooked(detached=False),
    "in a hook, detached": lambda: hooked(detached=True),
    "in a forward of the instance": patched,
}


@pytest.mark.parametrize("parameters", ["last-layer", "all"])
@pytest.mark.parametrize("what", HIDDEN)
def test_a_parameter_that_is_reached_past_its_name_is_refused_with_its_name(what, parameters):
    with pytest.raises(ValueError, match=r"the network uses its parameter 'head\.weight' past the name"):
        bi.Influence.of(HIDDEN[what](), bi.CrossEntropy(), DATA, parameters=parameters, damping=1.0)


@pytest.mark.parametrize("what", ["in a list", "a view as an attribute", "in a hook", "without a derivative"])
def test_so_it_is_before_training(what):
    schemes, schedule = bi.find_schemes(["weight-decay"]), bi.Schedule(epochs=2)
    with pytest.raises(ValueError, match=r"the network uses its parameter 'head\.weight' past the name"):
        bi.fit_schemes(schemes, HIDDEN[what], DATA, seeds=[0], schedule=schedule)


def test_a_trainable_module_that_is_not_registered_is_refused_and_a_frozen_one_is_a_constant():
    def net(frozen):
        return Net(
            lambda net, h: net.head(net.held[0](h)), lambda _: [nn.Linear(2, 2).double().requires_grad_(not frozen)]
        )

    with pytest.raises(ValueError, match=r"uses a trainable parameter of shape \(2, 2\) that is not registered"):
        bi.Influence.of(net(frozen=False), bi.CrossEntropy(), DATA, damping=1.0)
    network = net(frozen=True)
    expected = network.head(network.held[0](torch.tanh(network.body(X))))
    torch.testing.assert_close(first_outputs(bi.Objective(network, bi.CrossEntropy()), X), expected)


class Layered(nn.Module):
    """Modules that are registered, and asked for by another list, too."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)
        self.order = [self.first, nn.Tanh(), self.second]

    def forward(self, x):
        for layer in self.order:
            x = layer(x)
        return x


OPEN = {
    "a list of registered modules": Layered,
    "weight norm": lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 2))),
    "old spectral norm": lambda: nn.Sequential(nn.utils.spectral_norm(nn.Linear(3, 2))),
    "a hook on its own module": lambda: _with_hook(nn.Linear(3, 2)),
}


def _with_hook(layer):
    layer.register_forward_hook(lambda module, args, output: output + module.weight.sum(1))
    return layer


@pytest.mark.parametrize("what", OPEN)
def test_what_goes_by_names_passes(what):
    network = OPEN[what]().double().eval()
    expected = network(X).detach()
    torch.testing.assert_close(first_outputs(bi.Objective(network, bi.CrossEntropy()), X), expected)


def test_a_network_that_writes_into_its_parameters_is_refused():
    network = nn.Sequential(nn.Embedding(5, 3, max_norm=0.5), nn.Flatten(), nn.Linear(6, 2)).double()
    tokens = bi.Dataset(torch.tensor([[0, 1], [2, 3], [4, 0]]), torch.tensor([0, 1, 1]), torch.arange(3))
    with pytest.raises(ValueError, match=r"the network writes into its parameter '0\.weight' in its forward pass"):
        bi.Influence.of(network, bi.CrossEntropy(), tokens, damping=1.0)


def test_views_of_parameters_stay_views_in_the_copy():
    network = Net(lambda net, h: net.head(h) + h @ net.held, lambda net: net.head.weight.t())
    assert [name for _, name in aliases(network).values()] == ["head.weight"]
    objective = bi.Objective(network, bi.CrossEntropy())
    moved = objective.at({name: value + 1 for name, value in objective.params.items()})
    torch.testing.assert_close(moved.network.held, moved.params["head.weight"].t())
    assert aliases(Layered()) == {}


def test_what_lies_beside_a_parameter_or_nowhere_is_no_view_of_it():
    flat, module = torch.arange(8.0), nn.Module()
    module.weight = nn.Parameter(flat[:4].view(2, 2))
    module.itself, module.beside, module.last = [module.weight], flat[4:6], flat[3:5]
    module.empty, module.sparse = torch.empty(0), torch.eye(2).to_sparse()
    assert [(value is module.last, name) for value, name in aliases(module).values()] == [(True, "weight")]


def test_a_view_of_a_parameter_that_begins_inside_other_memory_is_found():
    flat, module = torch.arange(10.0), nn.Module()
    module.weight = nn.Parameter(flat[4:8])
    module.inside, module.before = flat[5:7], flat[1:3]
    assert [(value is module.inside, name) for value, name in aliases(module).values()] == [(True, "weight")]


def test_a_view_of_memory_that_is_laid_out_otherwise_is_a_copy():
    own, other = torch.arange(6.0).reshape(2, 3), torch.arange(10.0, 16.0).reshape(3, 2).t()
    moved = own + 1
    for value, place in ((own[1], other), (own.view(torch.int32)[1], moved)):
        copy = as_view_of(value, own, place)
        assert torch.equal(copy, value)
        assert copy.untyped_storage().data_ptr() not in [one.untyped_storage().data_ptr() for one in (own, place)]
    view = as_view_of(own[1], own, moved)
    assert view.tolist() == [4.0, 5.0, 6.0]
    assert view.untyped_storage().data_ptr() == moved.untyped_storage().data_ptr()


def test_unregistered_tensors_are_found_in_nestings():
    module = nn.Module()
    module.plain, module.nested = torch.ones(1), {"a": [torch.zeros(2)], "b": ("word", 3)}
    module.register_buffer("buffer", torch.ones(3))
    assert [path for path, _ in unregistered_tensors(module)] == ["plain", "nested['a'][0]"]


def test_kept_state_says_what_changed_and_puts_it_back():
    network = nn.Sequential(nn.Linear(1, 1))
    network[0].count, network[0].seen, network[0].names, network.marks = 0, [1], {"a": 1}, {1}
    network.register_buffer("mean", torch.zeros(2))
    network.register_buffer("first", None)
    kept = KeptState(network)
    assert kept.changed() == []
    network[0].count, network[0].new = 1, torch.ones(1)
    network[0].seen.append(2)
    network[0].names["b"] = 2
    network.marks.add(2)
    network.mean.add_(1)
    network.first, mean = torch.ones(1), network.mean
    assert sorted(kept.changed()) == ["0.count", "0.names", "0.new", "0.seen", "first", "marks", "mean"]
    kept.restore()
    assert kept.changed() == []
    assert (network[0].count, network[0].seen, network[0].names, network.marks) == (0, [1], {"a": 1}, {1})
    assert not hasattr(network[0], "new")
    assert network.first is None
    assert network.mean is mean
    assert mean.tolist() == [0.0, 0.0]
