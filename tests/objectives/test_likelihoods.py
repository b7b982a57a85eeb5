import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch.distributions import Normal

from bayes_influence.objectives.likelihoods import Bernoulli, CrossEntropy, GaussianNoise


def test_cross_entropy_equals_torch():
    logits, targets = 5 * torch.randn(20, 4).double(), torch.randint(0, 4, (20,))
    assert torch.allclose(CrossEntropy()(logits, targets), F.cross_entropy(logits, targets, reduction="none"))


@pytest.mark.parametrize("smoothing", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("weights", [None, (0.5, 1.0, 3.0, 0.0)])
def test_weighted_and_smoothed_cross_entropy_equals_torch(weights, smoothing):
    logits, targets = 5 * torch.randn(20, 4).double(), torch.randint(0, 4, (20,))
    as_tensor = None if weights is None else torch.tensor(weights).double()
    expected = F.cross_entropy(logits, targets, as_tensor, reduction="none", label_smoothing=smoothing)
    assert torch.allclose(CrossEntropy(weights, smoothing)(logits, targets), expected)


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("given", [(1, 3), [1.0, 3.0], torch.tensor([1.0, 3.0])], ids=["integers", "list", "tensor"])
def test_class_weights_are_kept_as_numbers_however_they_are_given(given):
    """So that likelihoods are the same ones, in sets and in what is stored, where their weights are."""
    likelihood = CrossEntropy(given)
    assert (likelihood, hash(likelihood)) == (CrossEntropy((1.0, 3.0)), hash(CrossEntropy((1.0, 3.0))))
    assert "class_weights=(1.0, 3.0)" in repr(likelihood)


def test_bad_class_weights_and_smoothing_are_refused():
    for weights in ((1.0, -1.0), (1.0, float("nan")), (0.0, 0.0)):
        with pytest.raises(ValueError, match="class weights must be finite, at least 0 and not all 0, got"):
            CrossEntropy(weights)
    for smoothing in (-0.1, 1.1):
        with pytest.raises(ValueError, match=f"a share between 0 and 1, got {smoothing}"):
            CrossEntropy(label_smoothing=smoothing)
    with pytest.raises(ValueError, match="class weights must be one per output, 4, got 3"):
        CrossEntropy((1, 1, 1))(torch.zeros(2, 4), torch.tensor([0, 1]))


def test_bernoulli_is_the_negative_log_likelihood_summed_over_labels():
    logits, targets = 5 * torch.randn(9, 3).double(), torch.randint(0, 2, (9, 3))
    expected = -torch.distributions.Bernoulli(logits=logits).log_prob(targets.double()).sum(1)
    assert torch.allclose(Bernoulli()(logits, targets), expected)
    assert torch.allclose(Bernoulli()(logits[:, 0], targets[:, 0]), Bernoulli()(logits[:, :1], targets[:, :1].float()))


def test_gaussian_noise_is_the_negative_log_density_summed_over_outputs():
    outputs, targets = torch.randn(7, 2).double(), torch.randn(7, 2).double()
    expected = -Normal(outputs, 0.3).log_prob(targets).sum(-1)
    assert torch.allclose(GaussianNoise(0.3)(outputs, targets), expected)
    apart = sum(GaussianNoise(scale)(outputs[:, [k]], targets[:, [k]]) for k, scale in enumerate((0.3, 2.0)))
    assert torch.allclose(GaussianNoise((0.3, 2.0))(outputs[:, :2], targets[:, :2]), apart)


def test_a_noise_scale_of_zero_is_refused():
    with pytest.raises(ValueError, match=r"noise scale must be positive, got 0\.0"):
        GaussianNoise(0.0)
