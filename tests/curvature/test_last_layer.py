from dataclasses import replace

import pytest
import torch
from torch import nn

from bayes_influence.curvature.operators.last_layer import LastLayerOperator
from bayes_influence.data.dataset import Dataset
from bayes_influence.objectives.derivatives import dense_hessian
from bayes_influence.objectives.likelihoods import CrossEntropy, GaussianNoise
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay


def test_softmax_closed_form(make_objective, classification) -> None:
    """H = (1/n) sum_i (diag p_i - p_i p_i') (x) a_i a_i' + lambda I, weights of all classes before the biases."""
    objective = make_objective("last-layer", decay=0.05)
    hidden = objective.network[:2](classification.inputs).detach()
    probabilities = objective.network(classification.inputs).softmax(1).detach()
    inputs = torch.cat([hidden, torch.ones(24, 1, dtype=torch.float64)], dim=1)
    total = torch.zeros(3, 6, 3, 6, dtype=torch.float64)
    for a, p in zip(inputs, probabilities, strict=True):
        total += torch.einsum("cd,e,f->cedf", torch.diag(p) - torch.outer(p, p), a, a) / 24
    order = [6 * c + d for c in range(3) for d in range(5)] + [6 * c + 5 for c in range(3)]
    expected = total.reshape(18, 18)[order][:, order] + 0.05 * torch.eye(18, dtype=torch.float64)
    torch.testing.assert_close(LastLayerOperator(objective, classification).dense(), expected)


def test_any_likelihood(classification) -> None:
    network = nn.Sequential(nn.Linear(4, 5), nn.SELU(), nn.Linear(5, 2)).double()
    data = Dataset(classification.inputs, torch.randn(24, 2, dtype=torch.float64), classification.ids)
    objective = Objective(network, GaussianNoise(0.3), WeightDecay(0.1), parameters="last-layer")
    torch.testing.assert_close(LastLayerOperator(objective, data).dense(), dense_hessian(objective, data.batch()))


def test_a_network_of_one_layer(classification) -> None:
    objective = Objective(nn.Linear(4, 3).double(), CrossEntropy(), WeightDecay(0.1))
    torch.testing.assert_close(
        LastLayerOperator(objective, classification).dense(), dense_hessian(objective, classification.batch())
    )


def test_refuses_another_last_layer(variational_objective, classification) -> None:
    with pytest.raises(TypeError, match=r"must be an nn.Linear, got VariationalLinear; use HessianOperator"):
        LastLayerOperator(variational_objective, classification)


def test_refuses_a_selection_beyond_the_last_layer(make_objective, classification) -> None:
    with pytest.raises(ValueError, match=r"selection must be the weight of the last layer '2'"):
        LastLayerOperator(make_objective("all"), classification)
    with pytest.raises(ValueError, match=r"selection must be the weight of the last layer '2'"):
        LastLayerOperator(make_objective(["2.bias"]), classification)


def test_refuses_a_network_that_goes_on_after_it(make_objective, classification) -> None:
    objective = make_objective("last-layer")
    longer = replace(objective, network=nn.Sequential(*objective.network, nn.LogSoftmax(1)))
    with pytest.raises(ValueError, match="the network's output is not its last layer's output"):
        LastLayerOperator(longer, classification)


def test_refuses_features_with_positions(make_objective, classification) -> None:
    objective = make_objective("last-layer")
    wide = Dataset(classification.inputs.unsqueeze(1), classification.targets, classification.ids)
    with pytest.raises(TypeError, match=r"must receive one tensor of shape \(B, D\)"):
        LastLayerOperator(objective, wide)
