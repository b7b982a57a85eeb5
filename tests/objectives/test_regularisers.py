import pytest
import torch
from torch.distributions import Normal, kl_divergence

from bayes_influence.objectives.regularisers import GaussianKL, NoRegulariser, WeightDecay


def _variational():
    generator = torch.Generator().manual_seed(0)
    shapes = {"0.weight": (5, 4), "0.bias": (5,)}
    params = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
    rhos = {
        f"{name}_rho": -1 + 0.3 * torch.randn(shape, generator=generator).double() for name, shape in shapes.items()
    }
    return params | rhos


@pytest.mark.parametrize("scale", [1.0, 0.3, {"0.weight": 0.5, "0.bias": 2.0}])
def test_kl_equals_torch_distributions_summed_over_weights_and_biases(scale):
    params = _variational()
    expected = sum(
        kl_divergence(
            Normal(params[name], params[f"{name}_rho"].exp()),
            Normal(*torch.tensor([0.0, scale[name] if isinstance(scale, dict) else scale], dtype=torch.float64)),
        ).sum()
        for name in ("0.weight", "0.bias")
    )
    assert torch.allclose(GaussianKL(40, scale)(params), expected / 40, rtol=1e-12)


def test_kl_vanishes_only_at_the_prior():
    params = {"w": torch.zeros(3).double(), "w_rho": torch.full((3,), 0.5).double().log()}
    assert float(GaussianKL(1, 0.5)(params)) == pytest.approx(0.0, abs=1e-15)
    assert float(GaussianKL(1, 0.6)(params)) > 0


def test_weight_decay_has_the_gradient_that_adam_couples():
    params = {"w": torch.tensor([1.0, -2.0], requires_grad=True), "b": torch.tensor([3.0], requires_grad=True)}
    penalty = WeightDecay(0.1)(params)
    assert float(penalty.detach()) == pytest.approx(0.05 * 14)
    penalty.backward()
    assert torch.allclose(params["w"].grad, 0.1 * params["w"].detach())


def test_no_regulariser_is_zero():
    assert float(NoRegulariser()({"w": torch.ones(2)})) == 0.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WeightDecay(-1.0), "weight decay must be at least 0, got -1.0"),
        (lambda: GaussianKL(0), "n_train >= 1"),
        (lambda: GaussianKL(10, 0.0), "positive prior scales"),
        (lambda: GaussianKL(10)({"w": torch.ones(2)}), "convert the network with to_bayesian first"),
    ],
)
def test_wrong_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("regulariser", [NoRegulariser(), WeightDecay(0.3), GaussianKL(7), GaussianKL(7, 0.4)])
def test_what_is_separable_is_a_sum_over_parameters(regulariser):
    params = _variational()
    parts = [{name: params[name], f"{name}_rho": params[f"{name}_rho"]} for name in ("0.weight", "0.bias")]
    assert regulariser.separable is True
    torch.testing.assert_close(regulariser(params), sum(regulariser(part) for part in parts))


def test_the_prior_is_a_standard_normal_unless_said_otherwise():
    assert GaussianKL(7)(_variational()) == GaussianKL(7, 1.0)(_variational())
    assert GaussianKL(1)(_variational()) == 7 * GaussianKL(7)(_variational())


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WeightDecay("1"), "weight decay"),
        (lambda: GaussianKL(10.5), "n_train"),
        (lambda: GaussianKL(10, "1"), "prior_scale"),
        (lambda: GaussianKL(10, {"0.weight": None}), "prior_scale"),
    ],
)
def test_settings_that_are_no_numbers_are_refused(make, message):
    with pytest.raises(TypeError, match=f"^{message} must be"):
        make()
