import pytest
import torch
from torch import nn
from torch.func import vmap

from bayes_influence.data.dataset import Dataset
from bayes_influence.moments.convert import to_bayesian
from bayes_influence.objectives.derivatives import dense_hessian, gradient, per_example_gradients
from bayes_influence.objectives.expected_likelihoods import TiltedCategorical
from bayes_influence.objectives.head import Head
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.members import Members
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.reduction import is_linear_layer, reduce
from bayes_influence.objectives.regularisers import GaussianKL, WeightDecay


def _reduced(objective, data):
    reduction = reduce(objective, data)
    return reduction, reduction.problem.at(0), reduction.examples()


@pytest.mark.parametrize("parameters", ["last-layer", "last-layer-means", ["2.bias"]])
@pytest.mark.parametrize("bayesian", [False, True])
def test_the_last_layer_has_the_derivatives_of_the_whole_network(network, data, bayesian, parameters):
    if bayesian:
        objective = Objective(to_bayesian(network).double(), TiltedCategorical(), GaussianKL(30), parameters=parameters)
    else:
        objective = Objective(network, CrossEntropy(), WeightDecay(0.1), parameters=parameters)
    reduction, head, examples = _reduced(objective, data)
    assert reduction.is_head
    assert head.names == objective.names
    assert isinstance(head.network, Head)
    torch.testing.assert_close(gradient(head, examples.batch()), gradient(objective, data.batch()))
    torch.testing.assert_close(dense_hessian(head, examples.batch()), dense_hessian(objective, data.batch()))
    assert examples.ids is data.ids


def test_every_member_has_features_of_its_own(network, data):
    one = Objective(network, CrossEntropy(), parameters="last-layer")
    other = one.at({name: -value for name, value in one.params.items()})
    reduction = reduce(Members.of([one, other]), data)
    for index, objective in enumerate((one, other)):
        expected = objective.network[:2](data.inputs)
        torch.testing.assert_close(reduction.features[index], expected.detach())
        head = reduction.problem.at(index)
        losses = head.losses(head.params, reduction.examples(index).batch())
        torch.testing.assert_close(losses, objective.losses(objective.params, data.batch()))
    batch, own = reduction.batch()
    assert own
    stacked = vmap(reduction.problem.objective.losses)(reduction.problem.params, batch)
    torch.testing.assert_close(stacked[1], other.losses(other.params, data.batch()))


class _Net(nn.Module):
    """A network whose forward pass is given."""

    def __init__(self, forward, head=None):
        super().__init__()
        self.body, self.head = nn.Linear(4, 5), head or nn.Linear(5, 3)
        self._forward = forward

    def forward(self, x):
        return self._forward(self, x)


def _plain(net, x):
    return net.head(torch.tanh(net.body(x)))


STAYS_WHOLE = {
    "a rectifier that is active for a single example": (
        lambda net, x: _plain(net, x) * (1 + (x == torch.tensor(LAST)).all(1, keepdim=True)),
        "does something to the output",
    ),
    "a clamp that never acts": (lambda net, x: _plain(net, x).clamp(-1e6, 1e6), "does something to the output"),
    "a temperature": (lambda net, x: _plain(net, x) / 4, "does something to the output"),
    "a skip connection": (lambda net, x: _plain(net, x) + x[:, :3], "does something to the output"),
    "a tuple": (lambda net, x: (_plain(net, x),), "does something to the output"),
    "two calls": (lambda net, x: net.head(torch.tanh(net.body(x)) + 0 * net.head(net.body(x)).sum()), "called 2 times"),
    "a weight that is used before": (
        lambda net, x: net.head(torch.tanh(net.body(x)) * net.head.weight.sum()),
        "depends on its own parameters",
    ),
    "a mean over the batch that cancels": (
        lambda net, x: net.head((h := torch.tanh(net.body(x))) - h.mean(0) + h.mean(0).detach()),
        None,
    ),
    "examples on the second axis": (
        lambda net, x: net.head(torch.tanh(net.body(x)).unsqueeze(0).expand(2, -1, -1)),
        "examples on its first axis",
    ),
}
LAST = [0.0, 0.0, 0.0, 0.0]


def _likelihood(outputs, targets):
    outputs = outputs[0] if isinstance(outputs, tuple) or outputs.ndim == 3 else outputs
    return CrossEntropy()(outputs, targets)


@pytest.mark.parametrize("what", STAYS_WHOLE)
def test_a_network_that_is_more_than_its_last_layer_stays_whole(data, what):
    forward, reason = STAYS_WHOLE[what]
    LAST[:] = data.inputs[-1].tolist()
    objective = Objective(_Net(forward).double(), _likelihood, WeightDecay(0.1), parameters="last-layer")
    reduction = reduce(objective, data)
    if reason is None:
        assert reduction.is_head
    else:
        assert not reduction.is_head
        assert reason in reduction.reason
    head, examples = reduction.problem.at(0), reduction.examples()
    assert head.names == ("head.weight", "head.bias")
    expected = per_example_gradients(objective.taking(["head.weight", "head.bias"]), data.batch())
    torch.testing.assert_close(per_example_gradients(head, examples.batch()), expected)


def test_several_layers_and_a_layer_before_the_last_stay_whole(network, data):
    assert "of several layers: 0, 2" in reduce(Objective(network, CrossEntropy()), data).reason
    first = Objective(network, CrossEntropy(), parameters=["0.weight"])
    assert "'0' is not the layer that is called last" in reduce(first, data).reason


def test_the_last_layer_is_the_one_that_is_called_last(head_first, data):
    reduction = reduce(Objective(head_first, CrossEntropy(), parameters="last-layer"), data)
    assert reduction.is_head
    assert reduction.members.objective.names == ("head.weight", "head.bias")


def test_a_tied_last_layer_is_found_under_the_first_name_of_its_weight(data):
    net = _Net(lambda net, x: net.head(torch.tanh(net.body(x) @ net.body.weight)), nn.Linear(4, 5, bias=False))
    net.head.weight = net.body.weight
    objective = Objective(net.double(), CrossEntropy(), WeightDecay(0.1), parameters="last-layer")
    labels = Dataset(data.inputs, data.targets, data.ids)
    reduction = reduce(objective, labels)
    assert reduction.members.objective.names == ("body.weight",)
    assert not reduction.is_head


def test_hooks_that_change_the_layer_are_kept_and_no_closed_form_is_taken(network, data):
    plain = Objective(network, CrossEntropy(), parameters="last-layer")
    network[2].register_forward_hook(lambda _, args, output: 3 * output)
    network[2].register_forward_pre_hook(lambda _, args: (args[0] + 1,))
    hooked = Objective(network, CrossEntropy(), WeightDecay(0.1), parameters="last-layer")
    reduction, head, examples = _reduced(hooked, data)
    assert reduction.is_head
    torch.testing.assert_close(gradient(head, examples.batch()), gradient(hooked, data.batch()))
    assert not torch.allclose(gradient(plain, data.batch()), gradient(hooked, data.batch()))
    assert not is_linear_layer(head, examples.inputs)
    _, head, examples = _reduced(plain, data)
    assert is_linear_layer(head, examples.inputs)


def test_a_forward_of_its_own_is_no_plain_layer(data):
    layer = nn.Linear(4, 3).double()
    assert is_linear_layer(Objective(layer, CrossEntropy()), data.inputs)
    layer.forward = lambda x: x[:, :3]
    assert not is_linear_layer(Objective(layer, CrossEntropy()), data.inputs)
    assert not is_linear_layer(Objective(nn.Linear(4, 3).double(), CrossEntropy()), data.inputs.unsqueeze(1))
    bias = Objective(nn.Linear(4, 3).double(), CrossEntropy(), parameters=["bias"])
    assert not is_linear_layer(bias, data.inputs)


@pytest.mark.parametrize(
    "penalty",
    [
        lambda params: params["0.weight"].square().sum() * params["2.weight"].square().sum(),
        lambda params: torch.cat([value.flatten() for value in params.values()]).norm() ** 4,
    ],
)
def test_a_regulariser_that_is_no_sum_over_parameters_sees_all_of_them(network, data, penalty):
    objective = Objective(network, CrossEntropy(), penalty, parameters="last-layer")
    reduction, head, examples = _reduced(objective, data)
    assert reduction.is_head
    torch.testing.assert_close(gradient(head, examples.batch()), gradient(objective, data.batch()))
    torch.testing.assert_close(dense_hessian(head, examples.batch()), dense_hessian(objective, data.batch()))


def test_other_examples_pass_only_where_they_pass_as_the_training_examples_did(data):
    def forward(net, x):
        logits = _plain(net, x)
        return logits.relu() if float(x.abs().max()) > 100 else logits

    objective = Objective(_Net(forward).double(), CrossEntropy(), parameters="last-layer")
    reduction = reduce(objective, data)
    assert reduction.is_head
    torch.testing.assert_close(reduction.features_of(data), reduction.features)
    far = Dataset(data.inputs * 1e3, data.targets, data.ids)
    assert reduction.features_of(far) is None


def _contrastive(outputs, targets):
    scores = outputs @ outputs.T
    return -torch.log_softmax(scores, 1).diagonal()


BATCH_DEPENDENT = {
    "a loss over pairs": (nn.Linear(4, 3), _contrastive),
    "centred logits": (nn.Linear(4, 3), lambda o, t: CrossEntropy()(o - o.mean(0), t)),
    "batch norm without statistics": (
        nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, track_running_stats=False), nn.Linear(5, 3)),
        CrossEntropy(),
    ),
    "outputs (n, 1) against targets (n,)": (nn.Linear(4, 1), lambda o, t: (o - t).square().mean(1)),
    "random numbers": (nn.Linear(4, 3), lambda o, t: CrossEntropy()(o + torch.randn_like(o), t)),
}


@pytest.mark.parametrize("what", BATCH_DEPENDENT)
@pytest.mark.parametrize("parameters", ["all", "last-layer"])
def test_losses_that_depend_on_the_other_examples_are_refused(data, what, parameters):
    network, likelihood = BATCH_DEPENDENT[what]
    objective = Objective(network.double(), likelihood, WeightDecay(0.1), parameters=parameters)
    with pytest.raises(ValueError, match="the loss of an example depends on the other examples of its batch"):
        reduce(objective, data)


def test_an_exception_of_the_network_is_no_answer(data):
    def forward(net, x):
        raise ValueError("this is the network's own")

    with pytest.raises(ValueError, match="this is the network's own"):
        reduce(Objective(_Net(forward).double(), CrossEntropy(), parameters="last-layer"), data)


def test_losses_that_are_not_finite_are_refused_with_the_data(network, data):
    objective = Objective(network, CrossEntropy(), parameters="last-layer")
    broken = objective.at({name: value * torch.nan for name, value in objective.params.items()})
    with pytest.raises(ValueError, match="30 of 30 losses are not finite"):
        reduce(broken, data)


class _WritesInPlace(nn.Module):
    """Changes what its last layer returned, or what it received, in the same memory."""

    def __init__(self, where):
        super().__init__()
        self.body, self.last, self.where = nn.Linear(3, 4), nn.Linear(4, 2), where

    def forward(self, x):
        with torch.no_grad():
            h = torch.tanh(self.body(x))
        out = self.last(h)
        if self.where == "output":
            return out.relu_()
        h.mul_(0) if self.where == "input" else None
        return out


@pytest.mark.parametrize("where", ["output", "input"])
def test_a_network_that_writes_into_its_last_layers_values_stays_whole(where):
    torch.manual_seed(0)
    x = torch.randn(12, 3)
    data = Dataset(x, (x[:, 0] > 0).long(), torch.arange(12))
    reduction = reduce(Objective(_WritesInPlace(where), CrossEntropy(), parameters="last-layer"), data)
    assert not reduction.is_head
    assert "in place" in reduction.reason
    assert reduce(Objective(_WritesInPlace("nowhere"), CrossEntropy(), parameters="last-layer"), data).is_head


def test_features_of_the_others_that_the_layer_leaves_out_stay_whole(data):
    """The last column of its weight is 0: the losses are each example's own, and influence on that column is not."""

    def forward(net, x):
        h = torch.tanh(net.body(x))
        return net.head(torch.cat([h, x.mean().expand(len(x), 1)], dim=1))

    network = _Net(forward, nn.Linear(6, 3)).double()
    with torch.no_grad():
        network.head.weight[:, -1] = 0
    reduction = reduce(Objective(network, CrossEntropy(), parameters="last-layer"), data)
    assert not reduction.is_head
    assert reduction.reason == "what 'head' receives of an example depends on the others"


class _Tempered(nn.Linear):
    """A linear layer with a buffer of its own."""

    def __init__(self, temperature):
        super().__init__(5, 3)
        self.register_buffer("temperature", torch.tensor([temperature]))

    def forward(self, x):
        return super().forward(x) / self.temperature


def test_heads_have_the_buffers_of_their_layer_and_no_others(data):
    def make(temperature):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), _Tempered(temperature)).double()
        network[1].running_mean.fill_(temperature)
        return Objective(network, CrossEntropy(), WeightDecay(0.1), parameters="last-layer")

    pair = [make(0.5), make(3.0)]
    reduction = reduce(Members.of(pair), data)
    assert set(reduction.problem.buffers) == {"3.temperature"}
    for index, objective in enumerate(pair):
        head, examples = reduction.problem.at(index), reduction.examples(index)
        expected = objective.losses(objective.params, data.batch())
        torch.testing.assert_close(head.losses(head.params, examples.batch()), expected)


def test_what_is_no_training_set_is_refused(network, data, as_installed):
    with pytest.raises(TypeError, match="the training examples must be a Dataset of this library"):
        reduce(Objective(network, CrossEntropy()), data.inputs)
