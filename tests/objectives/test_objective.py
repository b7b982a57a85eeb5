import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay


def test_value_is_the_weighted_mean_over_n_plus_the_regulariser(network, data):
    objective = Objective(network, CrossEntropy(), WeightDecay(0.1), regulariser_weight=0.5)
    weights = torch.rand(len(data)).double()
    losses = F.cross_entropy(network(data.inputs), data.targets, reduction="none")
    squares = sum(value.square().sum() for value in network.parameters())
    expected = (weights * losses).sum() / len(data) + 0.5 * 0.05 * squares
    assert torch.allclose(objective.value(objective.params, data.batch(), weights), expected)
    without = objective.value(objective.params, data.batch(), weights, regulariser_weight=0.0)
    assert torch.allclose(without, (weights * losses).mean())


def test_a_zero_weight_removes_an_example_and_keeps_n(network, data):
    objective = Objective(network, CrossEntropy())
    weights = torch.ones(len(data)).double()
    weights[3] = 0
    rest = objective.losses(objective.params, data.without(3).batch())
    assert torch.allclose(objective.value(objective.params, data.batch(), weights), rest.sum() / len(data))


def test_the_network_runs_in_evaluation_mode(data):
    network = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.9)).double().train()
    objective = Objective(network, CrossEntropy())
    first = objective.losses(objective.params, data.batch())
    assert torch.equal(first, objective.losses(objective.params, data.batch()))


def test_at_moves_the_parameters_and_leaves_the_network(network, data):
    objective = Objective(network, CrossEntropy())
    moved = objective.at({name: value + 1 for name, value in objective.params.items()})
    assert torch.equal(moved.params["0.bias"], network[0].bias + 1)
    assert not torch.allclose(
        moved.losses(moved.params, data.batch()), objective.losses(objective.params, data.batch())
    )


def test_double_casts_parameters_and_buffers(data):
    network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    objective = Objective(network, CrossEntropy()).double()
    assert objective.losses(objective.params, data.batch()).dtype == torch.float64
    assert network[1].running_mean.dtype == torch.float32


def test_foreign_parameters_are_refused(network):
    with pytest.raises(ValueError, match="params must name the network's parameters"):
        Objective(network, CrossEntropy(), params={"weight": torch.ones(2)})


def test_a_stack_is_refused_where_one_network_is_meant(network):
    stacked = {name: torch.stack([value, value]) for name, value in network.named_parameters()}
    with pytest.raises(ValueError, match=r"must have shape \(5, 4\), got \(2, 5, 4\); take one member"):
        Objective(network, CrossEntropy(), params=stacked)


def test_a_reduced_likelihood_is_refused(network, data):
    objective = Objective(network, F.cross_entropy)
    with pytest.raises(ValueError, match=r"one loss per example, shape \(30,\), got \(\); use reduction='none'"):
        objective.check(data.batch())
    with pytest.raises(ValueError, match="use reduction='none'"):
        objective.value(objective.params, data.batch())


def test_losses_that_are_not_finite_are_refused(network, data):
    objective = Objective(network, CrossEntropy())
    broken = objective.at({name: value * torch.nan for name, value in objective.params.items()})
    with pytest.raises(ValueError, match="30 of 30 losses are not finite"):
        broken.check(data.batch())
