import pytest
import torch

from bayes_influence.moments import fan_in_sigma, relative_sigma


def test_fan_in_sigma_adds_its_factor_to_each_output():
    sigma = fan_in_sigma(0.2)(torch.randn(3, 16), 16)
    assert torch.equal(sigma, torch.full((3, 16), 0.05))
    inputs = torch.ones(16)
    assert torch.allclose((inputs.square() * sigma[0].square()).sum().sqrt(), torch.tensor(0.2))


def test_relative_sigma_follows_the_weights_within_its_bounds():
    sigma = relative_sigma(0.1, minimum=0.01, maximum=0.5)(torch.tensor([-2.0, 0.0, 100.0]), 3)
    assert torch.allclose(sigma, torch.tensor([0.2, 0.01, 0.5]))


def test_bad_scales_are_refused():
    with pytest.raises(ValueError, match="factor must be positive, got 0"):
        fan_in_sigma(0)
    with pytest.raises(ValueError, match=r"fraction must be positive, got -0\.1"):
        relative_sigma(-0.1)
    with pytest.raises(ValueError, match="minimum must be positive, got 0"):
        relative_sigma(0.1, minimum=0)
    with pytest.raises(ValueError, match=r"maximum must be at least the minimum 0\.5, got 0\.1"):
        relative_sigma(0.1, minimum=0.5, maximum=0.1)


def test_what_is_not_said():
    """A twentieth of 1/sqrt(fan-in); a thousandth at least and one at most; the two may be one number."""
    assert torch.allclose(fan_in_sigma()(torch.zeros(2), 16), torch.full((2,), 0.0125))
    sigma = relative_sigma(0.5)(torch.tensor([1e-4, 0.1, 50.0]), 3)
    assert torch.allclose(sigma, torch.tensor([1e-3, 0.05, 1.0]))
    assert relative_sigma(0.5, minimum=0.2, maximum=0.2)(torch.tensor([1.0, -9.0]), 3).tolist() == pytest.approx(
        [0.2] * 2
    )
