"""Every module of torch.nn is either carried over or refused by name; none is forgotten."""

import inspect

import pytest
import torch
from torch import nn
from torch.nn.modules import activation

from bayes_influence.moments import Approximation, Moments, UnsupportedModuleError, to_bayesian
from bayes_influence.moments.supported import CONVERTED, PASSED, reason_against
from bayes_influence.moments.unfolded import UNFOLDED

DOUBLE = torch.float64
ARGUMENTS = {
    "Threshold": (0.1, -0.2),
    "Softmin": (1,),
    "Softmax": (1,),
    "LogSoftmax": (1,),
    "MultiheadAttention": (4, 2),
}
COUPLED = {"GLU", "Softmin", "Softmax", "Softmax2d", "LogSoftmax"}
"""Activations whose outputs depend on several inputs; their rules have tests of their own."""


def build(name):
    return getattr(nn, name)(*ARGUMENTS.get(name, ())).double().eval()


@pytest.mark.parametrize("name", sorted(activation.__all__))
def test_every_activation_of_torch_is_supported(name):
    module = build(name)
    assert to_bayesian(nn.Sequential(nn.Linear(4, 4), module))[1] is not None


@pytest.mark.parametrize("method", ["first-order", "exact", "gauss-hermite"])
@pytest.mark.parametrize("name", sorted(set(activation.__all__) - COUPLED - {"MultiheadAttention"}))
def test_every_elementwise_activation_has_the_moments_of_its_linearisation(name, method):
    module = build(name)
    mean = torch.tensor([[-2.4, -0.9, -0.3, 0.2], [0.35, 0.7, 1.3, 2.6]], dtype=DOUBLE, requires_grad=True)
    variance = torch.full_like(mean, 1e-10)
    result = module(Moments(mean.detach(), variance, Approximation(method)))
    value = module(mean)
    (slope,) = torch.autograd.grad(value.sum(), mean)
    assert torch.allclose(result.expectation, value, atol=1e-9)
    # The floor makes v at least 1e-12, and the curvature adds terms of order v^2.
    assert torch.allclose(result.variance, slope.square() * variance, rtol=1e-3, atol=1e-16)
    if method == "first-order":
        assert torch.equal(result.expectation, value.detach())


@pytest.mark.parametrize("name", sorted(set(activation.__all__) - COUPLED - {"MultiheadAttention"}))
@pytest.mark.parametrize("method", ["exact", "gauss-hermite"])
def test_every_elementwise_activation_is_close_to_samples(name, method, draw):
    module = build(name)
    x = Moments(torch.linspace(-1.5, 1.5, 5, dtype=DOUBLE), torch.full((5,), 0.4, dtype=DOUBLE), Approximation(method))
    result, samples = module(x), module(draw(x, 40_000)).detach()
    jumps = {"Hardshrink", "Threshold"}  # quadrature of a discontinuous function
    deviation = samples.std(0)
    assert ((result.expectation - samples.mean(0)).abs() < (0.25 if name in jumps else 0.06) * deviation + 1e-3).all()
    assert (
        (result.variance - deviation.square()).abs() < (0.4 if name in jumps else 0.15) * deviation.max() ** 2
    ).all()


def test_rrelu_draws_slopes_in_training_mode_and_is_refused():
    with pytest.raises(NotImplementedError, match="RReLU of Moments has no rule in training mode"):
        nn.RReLU().train()(Moments(torch.zeros(2), torch.ones(2)))


def test_modules_that_pass_are_modules_of_torch_without_weights_of_a_linear_map():
    assert all(kind.__module__.startswith("torch.nn") for kind in PASSED | set(CONVERTED))
    assert not PASSED & set(CONVERTED)


@pytest.mark.parametrize(
    "module",
    [
        nn.LSTM(2, 2),
        nn.Bilinear(2, 2, 2),
        nn.LocalResponseNorm(2),
        nn.LPPool2d(2, 2),
        nn.FractionalMaxPool2d(2, output_size=1),
        nn.TransformerDecoderLayer(4, 2, batch_first=True),
        nn.SyncBatchNorm(3),
        nn.LazyLinear(3),
    ],
    ids=lambda module: type(module).__name__,
)
def test_other_modules_of_torch_are_refused_by_name(module):
    with pytest.raises(UnsupportedModuleError, match=f"1: {type(module).__name__} has no moment rule"):
        to_bayesian(nn.Sequential(nn.Linear(2, 2), module))


def test_modules_that_would_fail_at_the_first_run_are_refused_at_conversion():
    assert "track_running_stats=True" in reason_against(nn.BatchNorm2d(3, track_running_stats=False))
    assert "return_indices=False" in reason_against(nn.MaxPool2d(2, return_indices=True))
    assert reason_against(nn.BatchNorm2d(3)) is None


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch's deprecated names are among them
def test_no_layer_of_torch_is_left_undecided():
    # What has no rule is refused, so this holds for classes that a later torch adds, too.
    for name, kind in inspect.getmembers(nn, inspect.isclass):
        if (
            issubclass(kind, nn.Module)
            and kind not in PASSED
            and kind not in (*CONVERTED, *UNFOLDED)
            and name not in {"Module", "Container"}
        ):
            module = kind.__new__(kind)
            nn.Module.__init__(module)
            assert "no moment rule" in reason_against(module), name


@pytest.mark.parametrize("hook", ["register_full_backward_hook", "register_full_backward_pre_hook"])
def test_a_backward_hook_of_either_kind_is_a_reason(hook):
    layer = nn.Linear(2, 2)
    getattr(layer, hook)(lambda *arguments: None)
    assert reason_against(layer) == "has a backward hook, which gradients of moments pass by; remove it"


def test_every_padding_of_torch_passes():
    names = [name for name in dir(nn) if name.endswith(("Pad1d", "Pad2d", "Pad3d"))]
    assert len(names) == 15
    assert {getattr(nn, name) for name in names} <= PASSED
