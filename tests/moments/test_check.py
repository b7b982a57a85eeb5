import pandas as pd
import pytest
import torch
from torch import nn

from bayes_influence.moments import Moments, check, moment_check, to_bayesian

DOUBLE = torch.float64


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.activation = nn.Tanh()

    def forward(self, x):
        return self.activation(x + self.activation(self.inner(x)))


@pytest.fixture
def network():
    layers = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), Residual(), nn.Dropout(), nn.Linear(4, 2))
    return to_bayesian(layers.double(), method="exact", initial_sigma=0.4).eval()


def test_one_row_for_each_output_in_the_order_of_the_forward_pass(network):
    check = moment_check(network, torch.randn(4, 3, dtype=DOUBLE), n_samples=64)
    # Dropout hands its input on in evaluation mode, and the containers what their last child returned.
    paths = [layer.path for layer in check.layers]
    assert paths == ["0", "1", "2.inner", "2.activation", "2.activation (call 2)", "4"]
    assert [layer.module for layer in check.layers][:3] == ["BayesianLinear", "Tanh", "BayesianLinear"]
    frame = check.to_frame()
    assert isinstance(frame, pd.DataFrame)
    assert list(frame["path"]) == paths
    assert list(frame.columns) == [
        "path",
        "module",
        "mean_error",
        "upper_mean_error",
        "variance_ratio",
        "lower_ratio",
        "upper_ratio",
    ]


def test_the_first_layer_is_exact_and_shows_sampling_noise_only(network):
    n = 2_000
    check = moment_check(network, torch.randn(40, 3, dtype=DOUBLE), n_samples=n)
    first = check.layers[0]
    assert check.noise == pytest.approx(n**-0.5)
    assert first.mean_error < 2 * check.noise
    assert first.variance_ratio == pytest.approx(1, abs=0.05)
    assert 0.9 < first.lower_ratio <= first.variance_ratio <= first.upper_ratio < 1.1


def test_errors_are_the_ones_that_were_put_in():
    layer = to_bayesian(nn.Linear(3, 2).double(), initial_sigma=0.5).eval()
    biased = nn.Sequential(layer, nn.Identity())
    biased[0].register_forward_hook(
        lambda module, inputs, output: (
            Moments(output.expectation + output.variance.sqrt(), 4 * output.variance)
            if isinstance(output, Moments)
            else None
        )
    )
    check = moment_check(biased, torch.randn(10, 3, dtype=DOUBLE), n_samples=2_000)
    assert check.layers[-1].mean_error == pytest.approx(1, abs=0.1)
    assert check.layers[-1].variance_ratio == pytest.approx(4, rel=0.1)


def test_sampling_repeats_with_the_seed_and_the_network_stays_as_it_was(network):
    x = torch.randn(4, 3, dtype=DOUBLE)
    first, second = (
        moment_check(network, x, n_samples=20, generator=torch.Generator().manual_seed(5)) for _ in range(2)
    )
    assert first == second
    assert not any(module._forward_hooks for module in network.modules())


def test_random_inputs_and_other_parameters(network):
    x = Moments(torch.randn(20, 3, dtype=DOUBLE), torch.rand(20, 3, dtype=DOUBLE))
    wide = {name: p.detach() + (0.5 if name.endswith("_rho") else 0) for name, p in network.named_parameters()}
    check = moment_check(network, x, params=wide, n_samples=2_000)
    assert check.layers[0].variance_ratio == pytest.approx(1, abs=0.05)


def test_plot_has_one_position_per_module(network):
    check = moment_check(network, torch.randn(4, 3, dtype=DOUBLE), n_samples=16)
    upper, lower = check.plot().axes
    assert [label.get_text() for label in lower.get_xticklabels()][2] == "2.inner BayesianLinear"
    assert "variance" in lower.get_ylabel()
    assert "standard deviations" in upper.get_ylabel()
    sums, exact = lower.lines
    assert list(sums.get_ydata()) == [layer.variance_ratio for layer in check.layers]
    assert set(exact.get_ydata()) == {1.0}
    assert len(lower.collections) == 1
    assert upper.get_shared_x_axes().joined(upper, lower)


def test_a_network_that_does_not_vary_is_refused(network):
    certain = {name: p.detach() - (1e4 if name.endswith("_rho") else 0) for name, p in network.named_parameters()}
    with pytest.raises(ValueError, match=r"output of '0' \(BayesianLinear\) does not vary in the samples"):
        moment_check(network, torch.zeros(2, 3, dtype=DOUBLE), params=certain, n_samples=4)
    with pytest.raises(ValueError, match="n_samples must be at least 2"):
        moment_check(network, torch.zeros(2, 3, dtype=DOUBLE), n_samples=1)


def test_errors_of_means_are_in_sampled_deviations_and_of_variances_in_ratios():
    sampled = Moments(torch.arange(10.0), torch.full((10,), 4.0))
    propagated = Moments(sampled.expectation + torch.arange(10.0), sampled.variance * torch.arange(1.0, 11.0))
    found = check._agreement("0", "Linear", propagated, sampled)
    assert found.mean_error == pytest.approx((torch.arange(10.0).square().sum() / 40).sqrt().item())
    # The ninth of ten values, and a tenth of the way to the next: 8.1 of 0..9 and 9.1 of 1..10.
    assert found.upper_mean_error == pytest.approx(8.1 / 2)
    assert (found.lower_ratio, found.upper_ratio, found.variance_ratio) == pytest.approx((1.9, 9.1, 5.5))


class Doubled(nn.Module):
    """A branch that meets itself again by another way, and counts as independent."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, x):
        h = self.inner(x)
        return h + 1.0 * h


def test_the_neglect_is_named_with_its_size():
    layers = nn.Sequential(nn.Linear(3, 3), Doubled()).double()
    twin = to_bayesian(layers, method="exact", initial_sigma=1.0).eval()
    found = moment_check(twin, torch.randn(20, 3, dtype=DOUBLE), n_samples=3000)
    before, at = found.steepest
    # Var(h + 1 h) is 4 v, and 2 v where both count as independent.
    assert (before.path, at.path) == ("1.inner", "1")
    assert at.variance_ratio == pytest.approx(0.5 * before.variance_ratio, rel=0.02)
    assert "most is lost or added at '1' (Doubled), where the ratio goes from 1.0" in found.summary
    assert f"are {found.layers[-1].variance_ratio:.2f} of those of sampled weights at the output" in found.summary


def test_the_first_module_may_be_the_steepest():
    layers = [check.LayerAgreement(str(index), "Linear", 0.0, 0.0, (0.3, 0.4)[index], 0, 0) for index in range(2)]
    found = check.MomentCheck(tuple(layers), 10)
    assert found.steepest == (None, layers[0])
    assert "at '0' (Linear), where the ratio goes from 1.00 to 0.30" in found.summary
