import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch.distributions import Normal

from bayes_influence.objectives.likelihoods import CrossEntropy, GaussianNoise


def test_cross_entropy_equals_torch():
    logits, targets = 5 * torch.randn(20, 4).double(), torch.randint(0, 4, (20,))
    assert torch.allclose(CrossEntropy()(logits, targets), F.cross_entropy(logits, targets, reduction="none"))


def test_gaussian_noise_is_the_negative_log_density_summed_over_outputs():
    outputs, targets = torch.randn(7, 2).double(), torch.randn(7, 2).double()
    expected = -Normal(outputs, 0.3).log_prob(targets).sum(-1)
    assert torch.allclose(GaussianNoise(0.3)(outputs, targets), expected)


def test_a_noise_scale_of_zero_is_refused():
    with pytest.raises(ValueError, match=r"noise scale must be positive, got 0\.0"):
        GaussianNoise(0.0)
