import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from bayes_influence.moments import Approximation, Moments, fan_in_sigma, to_bayesian, to_deterministic
from bayes_influence.moments.supported import CONVERTED
from bayes_influence.torch_internals import make_fx

DOUBLE = torch.float64
LAYERS = {
    "1d": (lambda: nn.Conv1d(2, 3, 3, stride=2, padding=1), (2, 6)),
    "2d": (lambda: nn.Conv2d(2, 2, (3, 2), stride=(1, 2), padding=(1, 0), dilation=(2, 1)), (2, 5, 4)),
    "3d": (lambda: nn.Conv3d(1, 2, 2, bias=False), (1, 2, 3, 3)),
    "groups": (lambda: nn.Conv2d(4, 4, 3, groups=2), (4, 3, 4)),
    "same": (lambda: nn.Conv1d(1, 2, 3, padding="same", dilation=2), (1, 4)),
    "valid": (lambda: nn.Conv1d(1, 2, 2, padding="valid"), (1, 3)),
    "circular": (lambda: nn.Conv1d(1, 2, 2, padding=1, padding_mode="circular"), (1, 3)),
    "reflect": (lambda: nn.Conv2d(1, 1, 3, padding=(1, 2), padding_mode="reflect"), (1, 3, 4)),
    "transposed 1d": (lambda: nn.ConvTranspose1d(3, 2, 4, stride=3, padding=1), (3, 4)),
    "transposed 2d": (
        lambda: nn.ConvTranspose2d(4, 6, (3, 2), stride=2, padding=1, output_padding=1, groups=2, dilation=2),
        (4, 3, 4),
    ),
    "transposed 3d": (lambda: nn.ConvTranspose3d(2, 3, 2, bias=False), (2, 2, 3, 2)),
    "same, replicate": (lambda: nn.Conv1d(1, 1, 4, padding="same", padding_mode="replicate"), (1, 4)),
}


def converted(layer):
    return CONVERTED[type(layer)](layer, Approximation("exact"), fan_in_sigma(0.8))


def sampled(layer, twin, x, n, draw):
    parts = {
        name: draw(Moments(p.detach(), (2 * getattr(twin, name + "_rho")).exp().detach()), n)
        for name, p in layer.named_parameters()
    }
    return vmap(lambda p, z: functional_call(layer, p, (z.unsqueeze(0),))[0])(parts, x).detach()


@pytest.mark.parametrize("name", LAYERS)
def test_moments_of_a_fixed_input_are_those_of_sampled_weights(name, draw, assert_match):
    build, shape = LAYERS[name]
    layer = build().double()
    twin, x, n = converted(layer), torch.randn(shape, dtype=DOUBLE), 40_000
    assert_match(twin(x), sampled(layer, twin, x.expand(n, *shape), n, draw))


@pytest.mark.parametrize("name", ["1d", "2d", "3d", "groups", "same", *(f"transposed {d}d" for d in (1, 2, 3))])
def test_moments_of_a_random_input_are_those_of_samples(name, draw, assert_match):
    build, shape = LAYERS[name]
    layer = build().double()
    twin, n = converted(layer), 40_000
    x = Moments(torch.randn(shape, dtype=DOUBLE), torch.rand(shape, dtype=DOUBLE))
    assert_match(twin(x), sampled(layer, twin, draw(x, n), n, draw))


@pytest.mark.parametrize("name", LAYERS)
def test_mean_is_the_deterministic_convolution_and_back_again(name):
    build, shape = LAYERS[name]
    layer = build().double()
    x = torch.randn(2, *shape, dtype=DOUBLE)
    twin = to_bayesian(layer)
    back = to_deterministic(twin)
    assert type(back) is type(layer)
    assert repr(back) == repr(layer)
    assert torch.equal(back(x), layer(x))
    assert torch.allclose(twin(x).expectation, layer(x), rtol=1e-13)


def test_fixed_weights_against_samples(draw, assert_match):
    x, n = Moments(torch.randn(1, 2, 4, 4, dtype=DOUBLE), torch.rand(1, 2, 4, 4, dtype=DOUBLE)), 40_000
    weight, bias = torch.randn(3, 2, 2, 2, dtype=DOUBLE), torch.randn(3, dtype=DOUBLE)
    samples = draw(x, n)
    assert_match(
        functional.conv2d(x, weight, bias, stride=2), functional.conv2d(samples[:, 0], weight, bias, stride=2)[:, None]
    )
    transposed = torch.randn(2, 3, 2, 2, dtype=DOUBLE)
    assert_match(
        functional.conv_transpose2d(x, transposed), functional.conv_transpose2d(samples[:, 0], transposed)[:, None]
    )


def test_variance_factors_of_a_transposed_convolution_are_of_its_output_channels():
    twin = to_bayesian(nn.ConvTranspose2d(4, 6, 2, groups=2), structure="calibrated")
    assert twin.variance_factor.shape == (6,)
    twin.variance_factor.fill_(4.0)
    plain = to_bayesian(nn.ConvTranspose2d(4, 6, 2, groups=2))
    plain.load_state_dict({name: value for name, value in twin.state_dict().items() if name != "variance_factor"})
    x = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(twin(x).variance, 4 * plain(x).variance)


def test_initial_sigma_counts_the_whole_kernel():
    twin = to_bayesian(nn.Conv2d(4, 8, 3, groups=2), initial_sigma=0.3)
    assert torch.allclose(twin.weight_rho.exp(), torch.full((8, 2, 3, 3), 0.3 / 18**0.5))
    assert torch.allclose(twin.bias_rho.exp(), torch.full((8,), 0.3 / 18**0.5))


@pytest.mark.parametrize("method", ["first-order", "exact"])
def test_safe_under_tracing_of_an_ensemble_of_gradients(method):
    layer = nn.Conv2d(2, 3, 3, padding=1, dtype=DOUBLE)
    network = nn.Sequential(layer, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 2, dtype=DOUBLE))
    x = torch.randn(3, 2, 4, 4, dtype=DOUBLE)
    twin = to_bayesian(network, method=method)
    params = {name: value.detach() for name, value in twin.named_parameters()}

    def loss(params, x):
        out = functional_call(twin, params, (x,))
        return (out.expectation.square() + out.variance).mean()

    members = {name: torch.stack([value, 1.1 * value]) for name, value in params.items()}
    step = vmap(grad(loss), in_dims=(0, None))
    together = make_fx(step)(members, x)(members, x)
    alone = grad(loss)({name: 1.1 * value for name, value in params.items()}, x)
    for name in params:
        assert torch.allclose(together[name][1], alone[name])


def test_a_wrong_input_names_the_layer_and_the_shape_it_wants():
    twin = to_bayesian(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2)))
    with pytest.raises(ValueError, match=r"layer '0' takes inputs of shape \(batch, 3, height, width\), got \(2, 1, 3"):
        twin(torch.zeros(2, 1, 3, 3))
    with pytest.raises(ValueError, match=r"got \(3, 3\)"):
        twin(torch.zeros(3, 3))


@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 1), (2, 2)])
def test_the_fan_in_of_a_transposed_convolution_is_that_of_its_outputs(stride, groups):
    layer = nn.ConvTranspose2d(8, 2, 4, stride=stride, groups=groups, bias=False)
    twin = to_bayesian(layer, initial_sigma=0.5).eval()
    assert twin.fan_in == 8 / groups * 16 / stride**2
    inner = twin(torch.ones(1, 8, 9, 9)).variance[..., 4:-4, 4:-4].mean()
    assert inner.item() == pytest.approx(0.25, rel=1e-5)
    assert not hasattr(twin.deterministic(), "fan_in")
