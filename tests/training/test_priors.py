import pytest
import torch
from torch import nn

from bayes_influence.models.mlp import MLP
from bayes_influence.moments.convert import to_bayesian
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.training.priors import network_at, prior_scales

NETWORK = nn.Sequential(nn.Conv2d(3, 2, 4), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2, bias=False)).eval()


def test_scales_are_one_number_or_one_per_layer():
    twin = to_bayesian(NETWORK)
    assert prior_scales(twin, 0.5) == 0.5
    scales = prior_scales(twin, 2.0, "fan-in")
    assert scales == pytest.approx({"0.weight": 2 / 48**0.5, "0.bias": 2 / 48**0.5, "3.weight": 2 / 8**0.5})
    for outputs in (1, 2):
        assert prior_scales(to_bayesian(nn.Linear(4, outputs)), kind="fan-in") == {"weight": 0.5, "bias": 0.5}


def test_unknown_kinds_and_scales_are_refused():
    with pytest.raises(ValueError, match="unknown prior 'laplace'; known: isotropic, fan-in"):
        prior_scales(to_bayesian(NETWORK), kind="laplace")
    with pytest.raises(ValueError, match=r"must be positive, got 0\.0"):
        prior_scales(to_bayesian(NETWORK), 0.0)


@pytest.mark.parametrize("bayesian", [False, True])
def test_a_training_can_start_where_another_ended(bayesian):
    network = MLP(3, 2, seed=0)
    objective = Objective(to_bayesian(network) if bayesian else network, CrossEntropy())
    ended = objective.at({name: value + 1 for name, value in objective.params.items()})
    start = network_at(ended)
    assert isinstance(start[0], nn.Linear)
    torch.testing.assert_close(start[0].weight, network[0].weight + 1)
    assert not torch.equal(network[0].weight, start[0].weight)


def test_a_transposed_convolution_has_the_fan_in_of_its_outputs():
    twin = to_bayesian(nn.ConvTranspose1d(6, 2, 4, stride=2, bias=False))
    assert prior_scales(twin, kind="fan-in") == pytest.approx({"weight": 1 / 12**0.5})
