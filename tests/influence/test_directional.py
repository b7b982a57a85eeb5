"""Derivatives along directions for every layer type of torch.nn, against differences of plain gradients."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from bayes_influence.data.dataset import Dataset
from bayes_influence.influence.directional import (
    loss_curvatures,
    loss_slopes,
    third_derivative,
    weighted_gradient,
    weighted_hessian_product,
)
from bayes_influence.influence.influence import Influence
from bayes_influence.influence.memory_perturbation import laplace_posterior, memory_perturbation
from bayes_influence.influence.problem import FittedProblem
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import NoRegulariser, WeightDecay
from bayes_influence.objectives.ways import NoDerivativeError
from tests.layer_types import (
    CASES,
    CLASSES,
    LENGTH,
    TOKENS,
    WIDTH,
    After,
    Custom,
    N,
    OnceOnly,
    differences,
    free,
    moved,
    plain_gradients,
    small_problem,
)

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")

JUMPS = ("after ELU", "after CELU", "after SELU", "after Softsign")
"""Second derivatives that jump at 0: there differences of gradients say nothing of a third."""

STEP = 1e-3
"""Of central differences of second order, extrapolated from two steps: their error is that of the fourth power."""


def directions(objective):
    generator = torch.Generator().manual_seed(5)
    length = len(objective.flat.theta)
    return [torch.randn(length, dtype=torch.float64, generator=generator) * free(objective) for _ in range(2)]


@pytest.mark.parametrize("name", CASES)
def test_first_and_second_derivatives_along_directions(name):
    objective, data = small_problem(name)
    problem, (first, second) = FittedProblem(objective, data, batch_size=2), directions(objective)
    theta, weights = objective.flat.theta, torch.linspace(-1, 2, N).double()
    gradients = plain_gradients(objective, data.batch())
    torch.testing.assert_close(weighted_gradient(problem, weights), weights @ gradients / N, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(loss_slopes(objective, data, first, 2), gradients @ first, rtol=1e-8, atol=1e-10)

    def along_first(step):
        return plain_gradients(moved(objective, theta + step * first), data.batch())

    turned = (along_first(1e-5) - along_first(-1e-5)) / 2e-5
    product = weighted_hessian_product(problem, weights, first)
    torch.testing.assert_close(product, weights @ turned / N, rtol=1e-6, atol=1e-7)
    found = loss_curvatures(objective, data, first, second, 2)
    torch.testing.assert_close(found, turned @ second, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in CASES if name not in JUMPS])
def test_third_derivatives_along_directions(name):
    objective, data = small_problem(name)
    problem, (first, second) = FittedProblem(objective, data, batch_size=2), directions(objective)
    theta, weights = objective.flat.theta, torch.linspace(-1, 2, N).double()

    def gradient(one, other):
        return weights @ plain_gradients(moved(objective, theta + one * first + other * second), data.batch()) / N

    def difference(step):
        apart = gradient(step, step) - gradient(step, -step) - gradient(-step, step) + gradient(-step, -step)
        return apart / (4 * step**2)

    expected = (4 * difference(STEP / 2) - difference(STEP)) / 3
    found = third_derivative(problem, weights, first, second)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()) + 1e-7)


@pytest.mark.parametrize("name", [name for name in CASES if name not in TOKENS])
def test_moving_an_input_of_every_layer(name):
    objective, data = small_problem(name)
    influence = Influence(objective, data, damping=2.0, curvature="ggn")
    test = data.select([3, 4])
    found = influence.of_perturbation([1, 2], test)
    solved = influence.response.solve(plain_gradients(objective, test.batch()).T).value
    chosen = data.select([1, 2])

    def effects(inputs):
        batch = Dataset(inputs, chosen.targets, chosen.ids).batch()
        return -solved.T @ plain_gradients(objective, batch).T

    units = torch.eye(LENGTH * WIDTH).double().view(-1, LENGTH, WIDTH) * 1e-5
    each = [(effects(chosen.inputs + unit) - effects(chosen.inputs - unit)) / 2e-5 for unit in units]
    expected = torch.stack(each, dim=-1).view(2, 2, LENGTH, WIDTH)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", CASES)
def test_memory_perturbation_of_every_layer(name):
    objective, data = small_problem(name)
    posterior = laplace_posterior(objective, data)
    theta = objective.flat.theta

    def outputs(at):
        with torch.no_grad():
            return objective.flat.outputs(at, data.inputs)

    jacobians = differences(outputs, theta) * free(objective)
    at = outputs(theta).requires_grad_()
    (errors,) = torch.autograd.grad(objective.losses_of(at, data.batch()).sum(), at)
    variances = jacobians @ torch.linalg.inv(posterior.precision) @ jacobians.mT
    expected = torch.einsum("kcd,kd->kc", variances, errors)
    found = memory_perturbation(posterior)
    torch.testing.assert_close(found.output_change, expected, rtol=1e-5, atol=1e-7)
    assert found.output_change.shape == (N, CLASSES)


class Functional(nn.Module):
    """Normalisations that are called as functions, behind a linear layer."""

    def __init__(self, normalise):
        super().__init__()
        self.linear, self.normalise = nn.Linear(WIDTH, WIDTH), normalise

    def forward(self, x):
        return self.normalise(self.linear(x))


@pytest.mark.parametrize(
    "normalise",
    [
        lambda x: functional.layer_norm(x, (WIDTH,)),
        lambda x: torch.layer_norm(x, (LENGTH, WIDTH)),
        lambda x: functional.instance_norm(x),
        lambda x: functional.group_norm(x, 2),
        lambda x: functional.rms_norm(x, (WIDTH,)),
    ],
    ids=["layer_norm", "torch.layer_norm", "instance_norm", "group_norm", "rms_norm"],
)
def test_normalisations_that_are_functions(normalise):
    torch.manual_seed(1)
    objective = Objective(After(Functional(normalise)).double(), CrossEntropy(), WeightDecay(0.05))
    data = Dataset(torch.randn(N, LENGTH, WIDTH).double(), torch.arange(N) % CLASSES, torch.arange(N))
    theta, generator = objective.flat.theta, torch.Generator().manual_seed(5)
    first, second = (torch.randn(len(theta), dtype=torch.float64, generator=generator) for _ in range(2))
    apart = [plain_gradients(moved(objective, theta + step * first), data.batch()) for step in (1e-5, -1e-5)]
    expected = (apart[0] - apart[1]) @ second / 2e-5
    torch.testing.assert_close(loss_curvatures(objective, data, first, second, 2), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("order", [2, "newton-chebyshev"])
@pytest.mark.parametrize("layer", ["LSTM", "custom function", "MultiheadAttention"])
def test_groups_of_every_order_where_forward_mode_is_missing(layer, order):
    objective, data = small_problem(layer)
    influence = Influence(objective, data, damping=2.0)
    change = influence.of_group([1], order=order).change
    first = influence.of_group([1], order=1).change
    assert 0 < float((change - first).norm() / first.norm()) < 0.5


def test_what_has_no_second_derivative_is_refused_before_the_work():
    objective = Objective(After(Custom(OnceOnly)).double(), CrossEntropy(), WeightDecay(0.05))
    data = Dataset(torch.randn(N, LENGTH, WIDTH).double(), torch.arange(N) % CLASSES, torch.arange(N))
    with pytest.raises(NoDerivativeError, match=r"not symmetric.*once_differentiable"):
        Influence(objective, data, damping=2.0)


def test_the_regulariser_bends_too():
    """T[u, v] of J_w with R = sum theta^4 / 4 has 6 theta u v from it; all of J is differenced here."""
    objective, data = small_problem("after Tanh")
    objective = replace(objective, regulariser=lambda params: sum((value**4).sum() / 4 for value in params.values()))
    problem, (first, second) = FittedProblem(objective, data, batch_size=2), directions(objective)
    with_it = third_derivative(problem, torch.ones(N).double(), first, second)
    without = FittedProblem(replace(objective, regulariser=NoRegulariser()), data, batch_size=2)
    alone = third_derivative(without, torch.ones(N).double(), first, second)
    torch.testing.assert_close(with_it - alone, 6 * problem.theta * first * second)
