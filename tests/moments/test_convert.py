import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, hessian, jvp, vmap
from torch.nn.utils import parametrizations

from bayes_influence.models.lenet import LeNet
from bayes_influence.models.mlp import MLP
from bayes_influence.models.resnet import ResNet
from bayes_influence.models.vgg import VGG
from bayes_influence.moments import (
    Approximation,
    Moments,
    UnsupportedModuleError,
    UnsupportedOperationError,
    relative_sigma,
    to_bayesian,
    to_deterministic,
)
from bayes_influence.moments.layers import BayesianLinear
from bayes_influence.torch_internals import make_fx

DOUBLE = torch.float64
METHODS = ["first-order", "exact", "gauss-hermite"]


class Residual(nn.Module):
    """A block that adds its input, with tensor operations of its own."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(5, 5)
        self.activation = nn.ReLU()

    def forward(self, x):
        return x + self.activation(self.inner(x))


class Halved(nn.Linear):
    def forward(self, x):
        return super().forward(x) / 2


def small(dtype=DOUBLE):
    return nn.Sequential(nn.Linear(4, 5), nn.SELU(), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)


def test_names_order_and_values():
    network = small()
    twin = to_bayesian(network, initial_sigma=0.1)
    names = [name for name, _ in twin.named_parameters()]
    assert names[:4] == ["0.weight", "0.bias", "0.weight_rho", "0.bias_rho"]
    assert [name for name in names if not name.endswith("_rho")] == [name for name, _ in network.named_parameters()]
    parameters = dict(twin.named_parameters())
    for name, value in network.named_parameters():
        assert torch.equal(parameters[name], value)
        fan_in = 4 if name.startswith("0") else 5
        assert torch.allclose(parameters[name + "_rho"].exp(), torch.full_like(value, 0.1 / fan_in**0.5))


def test_the_network_itself_stays_as_it_was():
    network = small()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    twin = to_bayesian(network)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1.0)
    assert type(network[0]) is nn.Linear
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("method", METHODS)
def test_method_reaches_every_rule(method):
    out = to_bayesian(small(), method=method)(torch.randn(2, 4, dtype=DOUBLE))
    assert isinstance(out, Moments)
    assert out.approximation == Approximation(method)


def test_first_order_at_zero_variance_is_the_deterministic_network():
    network = small()
    twin = to_bayesian(network)
    zero = {name: p.detach() - (1e4 if name.endswith("_rho") else 0) for name, p in twin.named_parameters()}
    x = torch.randn(7, 4, dtype=DOUBLE)
    out = functional_call(twin, zero, (x,))
    assert torch.equal(out.expectation, network(x))
    assert torch.equal(out.variance, torch.zeros_like(out.variance))


def test_small_variances_agree_with_sampled_networks():
    network = small()
    twin = to_bayesian(network, method="exact", initial_sigma=0.3)
    x, n = torch.randn(3, 4, dtype=DOUBLE), 40_000
    parameters = {name: value.detach() for name, value in twin.named_parameters()}
    samples = {
        name: value + parameters[name + "_rho"].exp() * torch.randn(n, *value.shape, dtype=DOUBLE)
        for name, value in parameters.items()
        if not name.endswith("_rho")
    }
    outputs = vmap(lambda p: functional_call(network, p, (x,)))(samples).detach()
    moments = twin(x)
    deviation = outputs.std(0)
    # Not exact beyond the first layer: independent entries and Gaussian pre-activations are assumed.
    assert ((moments.expectation - outputs.mean(0)).abs() < 0.05 * deviation).all()
    assert ((moments.variance / deviation.square()).sqrt() - 1).abs().max() < 0.1


def test_residual_networks_convert():
    network = nn.Sequential(nn.Linear(4, 5), Residual(), nn.Linear(5, 2))
    twin = to_bayesian(network)
    assert type(twin[1].inner) is BayesianLinear
    assert twin[1].inner.path == "1.inner"
    assert type(network[1].inner) is nn.Linear
    x = torch.randn(3, 4)
    hidden = twin[0](x)
    assert torch.allclose(
        twin[1](hidden).variance, hidden.variance + twin[1].activation(twin[1].inner(hidden)).variance
    )
    assert torch.allclose(twin(x).expectation, network(x))


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (MLP(4, 3, width=5, depth=2, seed=0), (4,)),
        (LeNet(seed=0), (1, 28, 28)),
        (VGG(11, input_shape=(3, 32, 32), width=1 / 32, seed=0), (3, 32, 32)),
        (ResNet(input_shape=(3, 8, 8), width=4, batch_norm=True, seed=0), (3, 8, 8)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_models_of_the_library_convert(network, shape):
    network = network.eval()
    x = torch.randn(2, *shape)
    for method in METHODS:
        out = to_bayesian(network, method=method)(x)
        assert out.shape == network(x).shape
        assert (out.variance > 0).all()
        out.variance.sum().backward()
    assert torch.allclose(to_bayesian(network)(x).expectation, network(x), atol=1e-6)


def test_a_single_layer_converts():
    assert type(to_bayesian(nn.Linear(2, 2))) is BayesianLinear
    assert type(to_deterministic(to_bayesian(nn.Linear(2, 2)))) is nn.Linear


def test_back_and_forth_is_the_identity():
    network = small().eval()
    back = to_deterministic(to_bayesian(network))
    assert not back.training
    assert [type(module) for module in back.modules()] == [type(module) for module in network.modules()]
    assert list(back.state_dict()) == list(network.state_dict())
    x = torch.randn(3, 4, dtype=DOUBLE)
    assert torch.equal(back(x), network(x))


def test_sigma_in_proportion_to_the_weights():
    network = small()
    twin = to_bayesian(network, initial_sigma=relative_sigma(0.1, minimum=1e-3))
    assert torch.allclose(twin[0].weight_rho.exp(), (0.1 * network[0].weight.abs()).clamp(min=1e-3))


@pytest.mark.parametrize("method", METHODS)
def test_safe_under_functional_transforms(method):
    twin = to_bayesian(small(), method=method, initial_sigma=0.5)
    params = {name: value.detach() for name, value in twin.named_parameters()}
    x = torch.randn(4, 4, dtype=DOUBLE)

    def loss(params, x):
        out = functional_call(twin, params, (x,))
        return (out.expectation.square() + out.variance.sqrt()).mean()

    twin.zero_grad()
    out = twin(x)
    (out.expectation.square() + out.variance.sqrt()).mean().backward()
    gradient = grad(loss)(params, x)
    assert all(torch.allclose(gradient[name], value.grad) for name, value in twin.named_parameters())

    direction = {name: torch.randn_like(value) for name, value in params.items()}
    slope = jvp(lambda p: loss(p, x), (params,), (direction,))[1]
    assert slope.item() == pytest.approx(sum((gradient[k] * direction[k]).sum().item() for k in params))

    def of_head(rho):
        return loss({**params, "4.weight_rho": rho}, x)

    rho = params["4.weight_rho"]
    shift = torch.zeros_like(rho)
    shift[0, 0] = 1e-5
    difference = (grad(of_head)(rho + shift) - grad(of_head)(rho - shift)) / 2e-5
    assert torch.allclose(hessian(of_head)(rho)[0, 0], difference, rtol=1e-5, atol=1e-9)

    members = {name: torch.stack([value, 1.1 * value]) for name, value in params.items()}
    step = vmap(grad(loss), in_dims=(0, None))
    traced = make_fx(step)(members, x)(members, x)
    alone = grad(loss)({name: 1.1 * value for name, value in params.items()}, x)
    for name in params:
        assert torch.allclose(traced[name][1], alone[name])


def test_moments_may_be_the_input():
    twin = to_bayesian(small(), method="exact")
    x = Moments(torch.randn(3, 4, dtype=DOUBLE), torch.rand(3, 4, dtype=DOUBLE))
    noisy, fixed = twin(x), twin(x.expectation)
    assert noisy.approximation == Approximation("exact")
    assert (noisy.variance > fixed.variance).all()
    rowwise = vmap(lambda row: twin(row))(x)
    assert torch.allclose(rowwise.variance, noisy.variance)


def test_unsupported_modules_are_named_with_their_paths_before_any_run():
    network = nn.Sequential(nn.Linear(4, 5), nn.ModuleDict({"rnn": nn.LSTM(5, 5), "scaled": Halved(5, 5)}))
    both = r"(?s)1\.rnn: LSTM has no moment rule.*1\.scaled: Halved holds the parameters \['bias', 'weight'\] itself"
    with pytest.raises(UnsupportedModuleError, match=both):
        to_bayesian(network)


def test_layers_are_matched_by_exact_type():
    class Odd(nn.Linear):
        def forward(self, x):
            return super().forward(x).relu()

    with pytest.raises(
        UnsupportedModuleError, match=r"0: Odd holds the parameters \['bias', 'weight'\].*not a subclass"
    ):
        to_bayesian(nn.Sequential(Odd(4, 4), nn.Linear(4, 2)))
    with pytest.raises(UnsupportedModuleError, match="0: ParametrizedLinear"):
        to_bayesian(nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 2)))
    with pytest.raises(UnsupportedModuleError, match="the network itself: LSTM"):
        to_bayesian(nn.LSTM(4, 2))


def test_an_operation_without_a_rule_is_refused_by_name_when_it_is_met():
    class Sorted(nn.Module):
        def forward(self, x):
            return torch.sort(x).values

    twin = to_bayesian(nn.Sequential(nn.Linear(4, 4), Sorted()))
    with pytest.raises(UnsupportedOperationError, match=r"torch\.sort has no rule"):
        twin(torch.randn(2, 4))


def test_nothing_to_convert_and_converted_networks_are_refused():
    with pytest.raises(ValueError, match="Sequential has no layer to convert; known: Linear"):
        to_bayesian(nn.Sequential(nn.ReLU()))
    with pytest.raises(UnsupportedModuleError, match="0: BayesianLinear is Bayesian already"):
        to_bayesian(to_bayesian(small()))
    with pytest.raises(ValueError, match="Sequential has no Bayesian layer"):
        to_deterministic(small())


def test_shared_weights_are_refused():
    shared = nn.Linear(4, 4)
    with pytest.raises(ValueError, match=r"'0\.weight' and '1\.weight' are one parameter"):
        to_bayesian(nn.Sequential(shared, shared))
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    with pytest.raises(ValueError, match="are one parameter"):
        to_bayesian(tied)


def test_options_are_checked_before_anything_is_built():
    with pytest.raises(ValueError, match="unknown method 'exakt'"):
        to_bayesian(small(), method="exakt")
    with pytest.raises(ValueError, match="initial_sigma must be positive"):
        to_bayesian(small(), initial_sigma=-1.0)


def test_hooks_and_attributes_of_a_layer_go_over_to_its_twin_and_back():
    network = small()
    network[0].register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))
    network[2].register_forward_hook(lambda module, inputs, output: output + module.offset)
    network[2].offset = 3.0
    x = torch.randn(2, 4, dtype=DOUBLE)
    twin = to_bayesian(network)
    assert torch.allclose(twin(x).expectation, network(x))
    back = to_deterministic(twin)
    assert torch.equal(back(x), network(x))
    assert set(vars(back[2])) == set(vars(network[2]))
    single = nn.Linear(4, 2)
    single.register_forward_hook(lambda module, inputs, output: -output)
    x = torch.randn(2, 4)
    assert torch.allclose(to_bayesian(single)(x).expectation, single(x))


def test_the_geometry_of_a_layer_may_be_read_from_its_twin():
    twin = to_bayesian(nn.Sequential(nn.Conv2d(1, 2, 3, stride=2)))
    assert twin[0].stride == (2, 2)
    assert twin[0].kernel_size == (3, 3)


@pytest.mark.parametrize("layer", [0, 1])
def test_what_a_twin_would_not_do_is_refused(layer):
    def refused(change, match):
        network = small()
        change(network[layer])
        with pytest.raises(UnsupportedModuleError, match=f"(?s){layer}: .*{match}"):
            to_bayesian(network)

    refused(lambda module: setattr(module, "forward", lambda x: x), "has a forward that was set on the instance")
    refused(lambda module: module.register_full_backward_hook(print), "has a backward hook")
    refused(lambda module: module.register_full_backward_pre_hook(print), "has a backward hook")
    refused(
        lambda module: setattr(module, "act", lambda x: module(x)), "keeps a function 'act' that holds on to modules"
    )
    refused(lambda module: setattr(module, "act", lambda x, m=module: m(x)), "holds on to modules")
    if layer == 0:
        refused(lambda module: module.register_buffer("mask", torch.ones(1)), r"holds \['mask'\] beside its weights")
        refused(lambda module: module.add_module("norm", nn.Identity()), r"holds \['norm'\] beside its weights")


def test_a_frozen_layer_is_random_and_its_sigma_is_frozen_with_its_mean():
    network = small()
    network[0].requires_grad_(False)
    twin = to_bayesian(network)
    frozen = {name for name, value in twin.named_parameters() if not value.requires_grad}
    assert frozen == {"0.weight", "0.bias", "0.weight_rho", "0.bias_rho"}
    assert (twin[0](torch.randn(2, 4, dtype=DOUBLE)).variance > 0).all()


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("convert", [to_bayesian, to_deterministic])
def test_what_is_no_network_is_refused(convert):
    with pytest.raises(TypeError, match=r"^only a network, an nn.Module, can be converted, got "):
        convert({"weight": torch.ones(2, 2)})


def test_a_compiled_network_is_refused():
    with pytest.raises(UnsupportedModuleError, match="is compiled; convert the network that it was compiled of, and"):
        to_bayesian(torch.compile(nn.Linear(2, 2), backend="eager"))
