from dataclasses import replace

import pytest
import torch

from bayes_influence.curvature.operators.hessian import HessianOperator
from bayes_influence.data.dataset import Dataset
from bayes_influence.objectives.derivatives import dense_hessian
from bayes_influence.torch_internals import tree_map


@pytest.mark.parametrize("selection", ["all", "last-layer", ["0.bias", "2.weight"]])
@pytest.mark.parametrize("batch_size", [None, 1, 10, 1000])
def test_any_selection_in_any_batches(make_objective, classification, selection, batch_size) -> None:
    objective = make_objective(selection)
    operator = HessianOperator(objective, classification, batch_size)
    torch.testing.assert_close(operator.dense(), dense_hessian(objective, classification.batch()))


def test_equals_finite_differences_of_the_gradient(make_objective, classification) -> None:
    objective = make_objective()
    theta = objective.layout.flatten(objective.params)
    gradient = torch.func.grad(lambda theta: objective.flat.value(theta, classification.batch()))
    direction, step = torch.randn(43, dtype=torch.float64), 1e-5
    difference = (gradient(theta + step * direction) - gradient(theta - step * direction)) / (2 * step)
    torch.testing.assert_close(HessianOperator(objective, classification) @ direction, difference, rtol=1e-7, atol=1e-8)


def test_the_regulariser_is_counted_once(make_objective, classification) -> None:
    objective = make_objective(decay=0.7)
    with_regulariser = HessianOperator(objective, classification, batch_size=4).dense()
    without = HessianOperator(replace(objective, regulariser_weight=0.0), classification, batch_size=4).dense()
    doubled = HessianOperator(replace(objective, regulariser_weight=2.0), classification, batch_size=4).dense()
    identity = torch.eye(43, dtype=torch.float64)
    torch.testing.assert_close(with_regulariser - without, 0.7 * identity)
    torch.testing.assert_close(doubled - without, 1.4 * identity)


def test_follows_the_parameters_of_the_objective(make_objective, classification) -> None:
    objective = make_objective()
    moved = objective.at(tree_map(lambda value: value + 0.3, objective.params))
    torch.testing.assert_close(
        HessianOperator(moved, classification).dense(), dense_hessian(moved, classification.batch())
    )


def test_leaves_the_network_alone(make_objective, classification) -> None:
    objective = make_objective()
    before = {name: value.clone() for name, value in objective.network.state_dict().items()}
    operator = HessianOperator(objective, classification)
    operator.dense()
    for name, value in objective.network.named_parameters():
        assert value.grad is None
        torch.testing.assert_close(value.detach(), before[name])


def test_takes_nested_inputs(make_objective, classification) -> None:
    objective = make_objective()

    class Pair(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = objective.network

        def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
            return self.inner(torch.cat([inputs["left"], inputs["right"]], dim=1))

    left, right = classification.inputs.split(2, dim=1)
    nested = Dataset({"left": left, "right": right}, classification.targets, classification.ids)
    pair = replace(objective, network=Pair(), params={})
    torch.testing.assert_close(
        HessianOperator(pair, nested, batch_size=9).dense(), dense_hessian(objective, classification.batch())
    )


def test_refuses_an_empty_batch(make_objective, classification) -> None:
    with pytest.raises(ValueError, match="batch size must be at least 1, got 0"):
        HessianOperator(make_objective(), classification, batch_size=0)


def test_refuses_losses_that_are_not_finite(make_objective, classification) -> None:
    objective = make_objective()
    broken = objective.at({name: value * torch.inf for name, value in objective.params.items()})
    with pytest.raises(ValueError, match="24 of 24 losses are not finite"):
        HessianOperator(broken, classification)


def test_refuses_a_likelihood_of_whole_batches(make_objective, classification) -> None:
    def whole(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(outputs, targets)

    with pytest.raises(ValueError, match="one loss per example"):
        HessianOperator(replace(make_objective(), likelihood=whole), classification)
