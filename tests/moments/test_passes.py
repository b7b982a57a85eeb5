import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.func import functional_call, vmap

from bayes_influence.moments import Moments, UnsupportedOperationError, to_bayesian

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


class Custom(nn.Module):
    """Two layers, and a forward pass to be chosen."""

    def __init__(self, compute):
        super().__init__()
        self.first, self.second, self.compute = nn.Linear(4, 4), nn.Linear(4, 4), compute

    def forward(self, x):
        return self.compute(self, x)


def twin_of(compute):
    return to_bayesian(Custom(compute))


@pytest.mark.parametrize(
    "compute",
    [
        lambda net, x: net.first(torch.relu(net.first(x))),
        lambda net, x: net.first(x) - net.first(x.flip(0)),
        lambda net, x: net.first(x) * net.first(2 * x),
        lambda net, x: net.first(x) @ net.first(x).T,
        lambda net, x: net.second(torch.cat([net.first(x), net.first(2 * x)])),
        lambda net, x: torch.stack([net.first(x), net.first(2 * x)]).relu().mean(0),
        lambda net, x: torch.stack([net.first(x), net.first(2 * x)]).sum(0),
        lambda net, x: F.softmax(torch.where(x > 0, net.first(x), net.first(-x)), dim=-1),
        lambda net, x: net.first(net.second(net.first(x))),
    ],
)
def test_two_calls_of_one_layer_that_meet_are_refused(compute):
    with pytest.raises(UnsupportedOperationError, match=r"layer 'first' is called twice.*treat them as independent"):
        twin_of(compute)(X)


def test_a_skip_connection_is_no_second_call():
    twin = twin_of(lambda net, x: net.first(x) + net.second(torch.relu(net.first(x))) * 0)
    with pytest.raises(UnsupportedOperationError, match="called twice"):
        twin(X)

    def residual(net, x):
        h = net.first(x)
        return h + net.second(torch.relu(h))

    assert (twin_of(residual)(X).variance > 0).all()


def test_what_is_only_put_side_by_side_keeps_its_moments():
    twin = twin_of(lambda net, x: torch.cat([net.first(x), net.first(2 * x)]).tanh())
    both = twin(X)
    assert torch.equal(both[5:].variance, twin.first(2 * X).tanh().variance)
    chosen, rows = twin_of(lambda net, x: torch.where(x[:, :1] > 0, net.first(x), net.first(2 * x)).tanh()), X[:, 0] > 0
    assert torch.equal(chosen(X).variance[rows], chosen.first(X).tanh().variance[rows])
    joined = torch.cat([twin.first(X[:2]), twin.first(X[2:])])
    assert torch.allclose(joined.variance, twin.first(X).variance)


def test_other_weights_in_the_same_layer_are_other_weights():
    twin = twin_of(lambda net, x: net.second(net.first(x)))
    params = {name: value.detach() for name, value in twin.named_parameters()}
    others = {name: value + 0.01 for name, value in params.items()}
    average = 0.5 * (functional_call(twin, params, (X,)) + functional_call(twin, others, (X,)))
    expected = (functional_call(twin, params, (X,)).variance + functional_call(twin, others, (X,)).variance) / 4
    assert torch.allclose(average.variance, expected)
    assert torch.allclose((copy.deepcopy(twin)(X) + twin(X)).variance, 2 * twin(X).variance)


def test_calls_are_noticed_under_transforms_as_well():
    twin = twin_of(lambda net, x: net.first(net.first(x)))
    params = {name: torch.stack([value.detach()] * 2) for name, value in twin.named_parameters()}
    with pytest.raises(UnsupportedOperationError, match="called twice"):
        vmap(lambda p: functional_call(twin, p, (X,)))(params)


@pytest.mark.parametrize(
    "compute",
    [
        lambda net, x: F.linear(net.first(x), net.first.weight.T),
        lambda net, x: F.linear(x, net.first.weight, net.first.bias),
        lambda net, x: net.first(x) + net.first.bias,
        lambda net, x: net.first(x) * net.second.weight.norm(),
        lambda net, x: x @ net.first.weight,
        lambda net, x: 2 * net.first.weight,
        lambda net, x: torch.mul(net.first.weight, 2),
        lambda net, x: getattr(net.first, "weight")[0] + x,  # noqa: B009
    ],
)
def test_a_weight_that_the_forward_pass_uses_itself_is_refused(compute):
    with pytest.raises(
        UnsupportedOperationError, match=r"(first|second)\.(weight|bias) of a Bayesian layer is used by"
    ):
        twin_of(compute)(X)


def test_the_shape_and_type_of_a_weight_may_be_asked_for():
    def forward(net, x):
        weight = net.second.weight
        assert weight.shape == weight.size() == (4, 4)
        assert weight.size(1) == weight.dim() + 2 == weight.ndim + 2 == 4
        assert weight.numel() == 16
        return net.first(x.to(weight.dtype).to(weight.device))

    twin = twin_of(forward)
    assert isinstance(twin(X.double()), Moments)
    assert isinstance(twin.first.weight, nn.Parameter)
    assert twin.first.bias.shape == (4,)


def test_a_layer_may_read_its_own_weight():
    class Reading(type(to_bayesian(nn.Linear(2, 2)))):
        def forward(self, x):
            assert isinstance(self.weight, nn.Parameter)
            return super().forward(x)

    layer = to_bayesian(nn.Linear(4, 4))
    layer.__class__ = Reading
    assert layer(X).shape == (5, 4)


@pytest.mark.parametrize(("package", "may"), [("torch.nn.own", True), ("beartype", True), ("mine.torch", False)])
def test_torchs_own_code_may_ask_for_tensors_and_that_of_others_may_not(package, may):
    own = {"__name__": package, "Tensor": torch.Tensor}
    exec("def asked(value):\n    return isinstance(value, Tensor)", own)

    def compute(net, x):
        assert own["asked"](net.first(x)) is False
        return net.second(x)

    if may:
        assert isinstance(twin_of(compute)(X), Moments)
    else:
        with pytest.raises(UnsupportedOperationError, match="asked asks whether its value is a Tensor"):
            twin_of(compute)(X)
