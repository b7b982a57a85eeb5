import copy

import pytest
import torch
from torch import nn
from torch.func import vmap

from bayes_influence.data.batch import Batch
from bayes_influence.moments.convert import to_bayesian
from bayes_influence.objectives.derivatives import (
    dense_hessian,
    examples_of,
    gradient,
    losses_of_members,
    per_example_gradients,
    per_example_hessians,
    singles_of,
)
from bayes_influence.objectives.expected_likelihoods import TiltedCategorical
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import GaussianKL, WeightDecay
from tests.layer_types import small_problem


def _central_differences(function, theta, step=1e-5):
    columns = []
    for index in range(len(theta)):
        shift = torch.zeros_like(theta)
        shift[index] = step
        columns.append((function(theta + shift) - function(theta - shift)) / (2 * step))
    return torch.stack(columns, dim=-1)


def test_gradient_and_hessian_equal_finite_differences(network, data):
    objective = Objective(network, CrossEntropy(), WeightDecay(0.05))
    theta = objective.layout.flatten(objective.params)

    def value(theta):
        return objective.flat.value(theta, data.batch())

    assert torch.allclose(gradient(objective, data.batch()), _central_differences(value, theta), atol=1e-9)

    def gradient_at(point):
        return gradient(objective.at(objective.layout.unflatten(point)), data.batch())

    assert torch.allclose(dense_hessian(objective, data.batch()), _central_differences(gradient_at, theta), atol=1e-8)


def test_the_elbo_hessian_is_the_derivative_of_its_gradient(network, data):
    """The tilt responds to the parameters: a Hessian that held it fixed would be wrong."""
    bayesian = to_bayesian(network, initial_sigma=0.5).double()
    objective = Objective(bayesian, TiltedCategorical(), GaussianKL(len(data)), parameters="last-layer")
    theta = objective.layout.flatten(objective.params)

    def gradient_at(point):
        params = {**objective.params, **objective.layout.unflatten(point)}
        return gradient(objective.at(params), data.batch())

    assert torch.allclose(dense_hessian(objective, data.batch()), _central_differences(gradient_at, theta), atol=1e-8)


def test_softmax_last_layer_has_its_closed_form(network, data):
    objective = Objective(network, CrossEntropy(), WeightDecay(0.05), parameters="last-layer")
    with torch.no_grad():
        features = network[:2](data.inputs)
        probabilities = torch.softmax(network(data.inputs), -1)
    extended = torch.cat([features, torch.ones(len(data), 1).double()], dim=1)
    inner = torch.diag_embed(probabilities) - vmap(torch.outer)(probabilities, probabilities)
    closed = torch.einsum("nab,ni,nj->aibj", inner, extended, extended) / len(data)
    closed = closed.flatten(2, 3).flatten(0, 1) + 0.05 * torch.eye(18).double()
    # The layout holds the weight (3, 5) and then the bias (3,); the closed form has rows of (5 + 1).
    order = [6 * c + f for c in range(3) for f in range(5)] + [6 * c + 5 for c in range(3)]
    assert torch.allclose(dense_hessian(objective, data.batch()), closed[order][:, order], atol=1e-12)


def test_examples_add_up_to_the_whole(network, data):
    objective = Objective(network, CrossEntropy(), WeightDecay(0.05), parameters=["0.bias", "2.weight"])
    weights = torch.rand(len(data)).double()
    theta = objective.layout.flatten(objective.params)
    # Weight decay on the selected parameters only: the others are held fixed.
    gradients = per_example_gradients(objective, data.batch())
    assert gradients.shape == (len(data), 5 + 15)
    expected = weights @ gradients / len(data) + 0.05 * theta
    assert torch.allclose(gradient(objective, data.batch(), weights), expected)
    hessians = per_example_hessians(objective, data.batch())
    expected = torch.einsum("n,nij->ij", weights, hessians) / len(data) + 0.05 * torch.eye(20).double()
    assert torch.allclose(dense_hessian(objective, data.batch(), weights), expected)


def test_inputs_may_be_nested(data):
    class Pair(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = torch.nn.Linear(2, 3).double(), torch.nn.Linear(2, 3).double()

        def forward(self, inputs):
            return self.left(inputs["a"]) + self.right(inputs["b"])

    inputs = {"a": data.inputs[:, :2], "b": data.inputs[:, 2:]}
    objective = Objective(Pair(), CrossEntropy())
    gradients = per_example_gradients(objective, Batch(inputs, data.targets))
    assert torch.allclose(gradients.mean(0), gradient(objective, Batch(inputs, data.targets)))


def test_batches_of_one_keep_the_axis_of_examples_and_examples_do_not():
    weights = torch.tensor([0.5, 1.0, 2.0])
    batch = Batch({"x": torch.arange(12.0).view(3, 4)}, torch.tensor([2, 0, 1]), weights)
    for row, (single, example) in enumerate(zip(singles_of(batch), examples_of(batch), strict=True)):
        assert torch.equal(single.inputs["x"], batch.inputs["x"][row].unsqueeze(0))
        assert torch.equal(example.inputs["x"], batch.inputs["x"][row])
        assert (single.targets.tolist(), example.targets.item()) == ([batch.targets[row]], batch.targets[row])
        assert (single.weights.tolist(), example.weights.item()) == ([weights[row]], weights[row])


@pytest.mark.parametrize("layer", ["Linear", "LSTM", "MultiheadAttention", "custom function"])
@pytest.mark.parametrize("own_data", [False, True])
def test_losses_under_many_states_are_those_of_networks_that_hold_them(layer, own_data):
    """Torch has no batching rule for some of the layers: their members are taken one by one."""
    objective, data = small_problem(layer)
    factors = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    states = {name: torch.stack([factor * value for factor in factors]) for name, value in objective.params.items()}
    batch = data.batch()
    if own_data:
        inputs = torch.stack([batch.inputs, -batch.inputs, 2 * batch.inputs])
        batch = Batch(inputs, batch.targets.expand(3, -1), None)
    losses = losses_of_members(objective, states, batch, own_data=own_data)
    assert losses.shape == (3, len(data))
    for row, own in enumerate(losses):
        network = copy.deepcopy(objective.network)
        network.load_state_dict({name: value[row] for name, value in states.items()})
        inputs = batch.inputs[row] if own_data else batch.inputs
        expected = nn.functional.cross_entropy(network(inputs), data.targets, reduction="none")
        torch.testing.assert_close(own, expected, rtol=1e-10, atol=1e-12)
