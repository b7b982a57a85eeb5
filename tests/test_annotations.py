"""Annotations are checked in the test run, and the checks hold up under function transforms and tracing."""

import pytest
import torch
from jaxtyping import TypeCheckError
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

from bayes_influence.data.batch import Batch
from bayes_influence.data.synthetic import gaussian_classes
from bayes_influence.models.initialisation import initial_params
from bayes_influence.models.mlp import MLP
from bayes_influence.objectives.derivatives import per_example_gradients
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import Flattening
from bayes_influence.objectives.regularisers import WeightDecay
from bayes_influence.torch_internals import make_fx


def cross_entropy(outputs, targets):
    return torch.nn.functional.cross_entropy(outputs, targets, reduction="none")


@pytest.fixture
def problem():
    batch = gaussian_classes(8, n_features=2).dataset.batch()
    objective = Objective(MLP(2, 2, width=2, seed=0).double(), cross_entropy, WeightDecay(0.1))
    return objective, batch


def test_wrong_shape_is_refused(problem):
    objective, batch = problem
    with pytest.raises(TypeCheckError, match="data_weights"):
        objective.value(objective.params, batch, torch.ones(8, 1, dtype=torch.float64))


def test_wrong_type_is_refused():
    with pytest.raises(TypeCheckError, match="decay"):
        WeightDecay("0.1")


def test_models_are_checked_too():
    with pytest.raises(TypeCheckError, match="width"):
        MLP(2, 2, width=2.5)


def test_an_integer_may_stand_for_a_real_number():
    assert float(WeightDecay(2)({"weight": torch.ones(3)})) == 3.0


@pytest.mark.parametrize("transform", [grad, hessian, jacfwd, jacrev], ids=lambda transform: transform.__name__)
def test_annotated_functions_work_under_transforms(problem, transform):
    objective, batch = problem

    def value(theta):
        return objective.flat.value(theta, batch)

    theta = objective.layout.flatten(objective.params)
    alone = transform(value)(theta)
    together = vmap(transform(value))(torch.stack([theta, 2 * theta]))
    torch.testing.assert_close(together[0], alone)


def test_annotated_functions_work_under_jvp(problem):
    objective, batch = problem

    def value(theta):
        return objective.flat.value(theta, batch)

    theta = objective.layout.flatten(objective.params)
    direction = torch.ones_like(theta)
    _, slope = jvp(value, (theta,), (direction,))
    torch.testing.assert_close(slope, grad(value)(theta) @ direction)
    _, product = jvp(grad(value), (theta,), (direction,))
    torch.testing.assert_close(product, hessian(value)(theta) @ direction)


def test_annotated_functions_work_under_per_example_gradients(problem):
    objective, batch = problem
    gradients = per_example_gradients(objective, batch)
    data_only = Objective(objective.network, cross_entropy)
    mean = grad(data_only.flat.value)(objective.flat.theta, batch)
    torch.testing.assert_close(gradients.mean(dim=0), mean)


@pytest.mark.parametrize("tracing_mode", ["real", "fake", "symbolic"])
def test_annotated_functions_can_be_traced(problem, tracing_mode):
    objective, batch = problem
    members = initial_params(lambda: MLP(2, 2, width=2), [0, 1, 2], torch.float64)
    weights = torch.ones(3, 8, dtype=torch.float64)

    def step(params, weights, inputs, targets):
        def value(params, weights):
            return objective.value(params, Batch(inputs, targets), weights, 0.5)

        return vmap(grad(value))(params, weights)

    arguments = (members, weights, batch.inputs, batch.targets)
    traced = make_fx(step, tracing_mode=tracing_mode)(*arguments)
    expected = step(*arguments)
    for name, value in traced(*arguments).items():
        torch.testing.assert_close(value, expected[name])


def test_flattening_keeps_its_shapes_under_vmap():
    members = initial_params(lambda: MLP(2, 2, width=2), [0, 1])
    layout = Flattening.of({name: value[0] for name, value in members.items()})
    flat = vmap(layout.flatten)(members)
    torch.testing.assert_close(flat, layout.flatten(members))
