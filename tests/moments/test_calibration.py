import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, hessian

from bayes_influence.moments import (
    Moments,
    UnsupportedOperationError,
    calibration,
    moment_check,
    to_bayesian,
    to_deterministic,
    variance_factors,
)
from bayes_influence.moments.layers import FACTOR, is_calibrated, multiplied

DOUBLE = torch.float64


def convolutional(structure="calibrated"):
    layers = nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.ReLU(inplace=True),
        nn.AvgPool2d(3),
        nn.Conv2d(3, 4, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4, 2),
    )
    return to_bayesian(layers.double(), method="exact", structure=structure, initial_sigma=0.6).eval()


@pytest.fixture
def network():
    torch.manual_seed(0)
    return convolutional()


@pytest.fixture
def images():
    """Bright ones, whose positions resemble one another."""
    return 1 + 0.3 * torch.randn(20, 1, 8, 8, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))


def test_a_factor_is_the_missing_covariance_of_positions_that_share_their_weights():
    # z_p = w x_p for one weight w of variance s^2; the mean over the positions has the variance s^2 (mean x)^2, and the
    # rule for independent entries gives s^2 mean(x^2) / P. The layer after it, of fixed weights but for its bias,
    # multiplies by 1.
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv1d(1, 1, 1, bias=False), nn.AvgPool1d(4), nn.Flatten(), nn.Linear(1, 1)).double()
    twin = to_bayesian(layers, structure="calibrated", initial_sigma=0.5).eval()
    with torch.no_grad():
        twin[3].weight.fill_(1.0)
        twin[3].weight_rho.fill_(-30.0)
        twin[3].bias_rho.fill_(-30.0)
    x = torch.tensor([[[1.0, 2.0, 3.0, 4.0]], [[0.0, 1.0, 1.0, 0.0]]], dtype=DOUBLE)
    n = 500
    found = variance_factors(twin, x, n_samples=n)
    coherent, independent = x.mean(-1).square().mean(), x.square().mean(-1).mean() / 4
    assert float(found[f"3.{FACTOR}"]) == pytest.approx(float(coherent / independent), rel=5 * (2 / n) ** 0.5)
    assert torch.equal(found[f"0.{FACTOR}"], torch.ones(1, dtype=DOUBLE))


def test_calibrated_moments_agree_with_other_draws_where_diagonal_ones_fall_short(network, images):
    network.load_state_dict(
        variance_factors(network, images, n_samples=500, generator=torch.Generator().manual_seed(3)), strict=False
    )
    plain = to_bayesian(to_deterministic(network), method="exact").eval()
    params = dict(network.named_parameters())
    ratios, neglected = (
        {layer.path: layer.variance_ratio for layer in moment_check(one, images, params=params, n_samples=500).layers}
        for one in (network, plain)
    )
    # All examples share the draws: a sum of their variances has at most the error of one, sqrt(2 / n) on either side.
    for path in ("0", "3", "6"):
        assert ratios[path] == pytest.approx(1, abs=5 * (4 / 500) ** 0.5)
    assert neglected["3"] < 0.5


def test_same_draws_give_the_same_factors_and_the_network_is_left_as_it_was(network, images):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    one, other = (variance_factors(network, images, n_samples=8) for _ in range(2))
    assert set(one) == {f"{path}.{FACTOR}" for path in (0, 3, 6)}
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert [value.shape for value in one.values()] == [(3,), (4,), (2,)]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())
    # Whatever factors stand in the network, those that are found are the same.
    network.load_state_dict(one, strict=False)
    again = variance_factors(network, images, n_samples=8)
    assert all(torch.equal(one[name], again[name]) for name in one)
    wider = {name: p + 0.5 if name.endswith("_rho") else p for name, p in network.named_parameters()}
    assert not torch.equal(variance_factors(network, images, wider, n_samples=8)[f"6.{FACTOR}"], one[f"6.{FACTOR}"])


@pytest.mark.parametrize(("propagated", "drawn"), [(torch.inf, 1.0), (1.0, torch.nan)])
def test_a_variance_that_is_not_finite_on_either_side_is_refused(propagated, drawn):
    layer = to_bayesian(nn.Linear(3, 2).double(), structure="calibrated")
    output = Moments(torch.zeros(4, 2), torch.full((4, 2), propagated))
    correct = calibration._correction("body", {"body": torch.full((2,), drawn)}, {})
    with pytest.raises(ValueError, match="the output of layer 'body' has variances that are not finite"):
        correct(layer, (output,), output)


def test_random_inputs_are_drawn_and_calibrated_from_the_first_layer_on():
    torch.manual_seed(0)
    twin = to_bayesian(nn.Linear(3, 2).double(), structure="calibrated", initial_sigma=0.3).eval()
    x, n = Moments(torch.randn(50, 3, dtype=DOUBLE), torch.rand(50, 3, dtype=DOUBLE)), 500
    found = variance_factors(twin, x, n_samples=n)
    # The layer's rule is exact for independent entries.
    assert ((found[FACTOR] - 1).abs() < 5 * (2 / n) ** 0.5).all()


def test_a_factor_multiplies_its_channel(network):
    moments = Moments(torch.randn(2, 3, 4, 4), torch.rand(2, 3, 4, 4))
    result = multiplied(moments, torch.tensor([1.0, 2.0, 3.0]), -3)
    assert torch.equal(result.variance[:, 2], 3 * moments.variance[:, 2])
    assert torch.equal(result.variance[:, 0], moments.variance[:, 0])
    last = multiplied(moments, torch.arange(4.0), -1)
    assert torch.equal(last.variance[..., 2], 2 * moments.variance[..., 2])
    assert is_calibrated(network)
    assert not is_calibrated(convolutional("diagonal"))


def test_derivatives_hold_the_factors(network, images):
    factors = variance_factors(network, images, n_samples=8)
    params = {name: value.detach() for name, value in network.named_parameters()}
    rest = {name: value for name, value in params.items() if name != "6.bias_rho"}

    def spread(rho):
        return functional_call(network, {**rest, **factors, "6.bias_rho": rho}, (images[:1],)).variance.sum()

    rho = params["6.bias_rho"]
    by_rho = factors[f"6.{FACTOR}"] * 2 * torch.exp(2 * rho)
    torch.testing.assert_close(grad(spread)(rho), by_rho)
    torch.testing.assert_close(hessian(spread)(rho), torch.diag(2 * by_rho))
    # Those of a shared weight go through both layers, against central differences.
    weight = params["0.weight_rho"]
    direction = torch.randn_like(weight)

    def along(t):
        state = {**params, **factors, "0.weight_rho": weight + t * direction}
        return functional_call(network, state, (images[:1],)).variance.sum()

    step = 1e-4
    zero = torch.zeros((), dtype=DOUBLE)
    first = (along(zero + step) - along(zero - step)) / (2 * step)
    second = (along(zero + step) - 2 * along(zero) + along(zero - step)) / step**2
    torch.testing.assert_close(grad(along)(zero), first, rtol=1e-5, atol=0)
    torch.testing.assert_close(grad(grad(along))(zero), second, rtol=1e-4, atol=0)


def test_channels_that_do_not_vary_have_the_factor_one(network, images):
    certain = {name: p - 1e4 if name.startswith("6") and "rho" in name else p for name, p in network.named_parameters()}
    certain["6.weight"] = certain["6.weight"].clone()
    certain["6.weight"][0] = 0.0
    found = variance_factors(network, images, certain, n_samples=8)[f"6.{FACTOR}"]
    assert float(found[0]) == 1.0
    assert float(found[1]) != 1.0


def test_what_cannot_be_calibrated_is_refused(network, images):
    with pytest.raises(ValueError, match=r"Sequential has no variance factors; convert it with to_bayesian\(\.\.\., s"):
        variance_factors(convolutional("diagonal"), images)
    wide = {name: p + 400 if name == "3.weight_rho" else p for name, p in network.named_parameters()}
    with pytest.raises(ValueError, match="output of layer '3' has variances that are not finite; start from a smaller"):
        variance_factors(network, images, wide, n_samples=4)
    with pytest.raises(ValueError, match="n_samples must be at least 2"):
        variance_factors(network, images, n_samples=1)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 2)

    def forward(self, x):
        return torch.cat([self.inner(x), self.inner(2 * x)], 1)


def test_a_layer_that_is_called_twice_has_no_single_factor():
    twin = to_bayesian(Twice(), structure="calibrated").eval()
    with pytest.raises(UnsupportedOperationError, match="layer 'inner' is called twice"):
        variance_factors(twin, torch.randn(4, 3), n_samples=2)


def test_as_many_draws_as_documented(network, images, monkeypatch):
    seen = []
    monkeypatch.setattr(
        calibration, "_sampled_variances", lambda *args: (seen.append(args[3]), _all_ones(args[0], images))[1]
    )
    variance_factors(network, images)
    assert seen == [calibration.FACTOR_DRAWS]


def _all_ones(twin, images):
    return {path: torch.ones((), dtype=DOUBLE) for path in ("0", "3", "6")}
