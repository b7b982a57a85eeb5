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


def test_sample_weights_are_inside(make_objective, classification) -> None:
    objective = make_objective("last-layer")
    weighted = replace(classification, weights=torch.linspace(0, 2, 24, dtype=torch.float64))
    expected = dense_hessian(objective, weighted.batch())
    torch.testing.assert_close(LastLayerOperator(objective, weighted).dense(), expected)


@pytest.mark.parametrize("classes", [3, 40])
def test_products_with_some_examples_are_those_of_their_mean(classes) -> None:
    """Held matrices for few classes, the softmax form for many; sample weights and the regulariser are inside."""
    torch.manual_seed(0)
    objective = Objective(nn.Linear(4, classes).double(), CrossEntropy(), WeightDecay(0.1))
    data = Dataset(
        torch.randn(9, 4).double(), torch.arange(9) % classes, torch.arange(9), weights=torch.linspace(0, 2, 9).double()
    )
    operator, some = LastLayerOperator(objective, data), torch.tensor([7, 2, 3])
    vectors = torch.randn(operator.size, 2, dtype=torch.float64)
    expected = dense_hessian(objective, data.select(some).batch()) @ vectors
    torch.testing.assert_close(operator.product_of(some, vectors), expected)
    torch.testing.assert_close(operator.product_of(torch.arange(9), vectors), operator @ vectors)


@pytest.mark.parametrize(("parameters", "reason"), [("all", "of several layers"), (["2.bias"], r"\['2.bias'\]")])
def test_refuses_what_is_no_linear_layer(make_objective, classification, parameters, reason) -> None:
    with pytest.raises(ValueError, match=rf"the closed form is of one plain nn\.Linear on vectors, .*{reason}"):
        LastLayerOperator(make_objective(parameters), classification)


def test_refuses_features_with_positions(classification) -> None:
    flat = lambda outputs, targets: CrossEntropy()(outputs.flatten(1), targets)  # noqa: E731
    objective = Objective(nn.Linear(4, 3).double(), flat, WeightDecay(0.1))
    wide = Dataset(classification.inputs.unsqueeze(1), classification.targets, classification.ids)
    with pytest.raises(ValueError, match=r"one plain nn\.Linear on vectors"):
        LastLayerOperator(objective, wide)
