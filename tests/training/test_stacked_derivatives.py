import pytest
import torch

from bayes_influence.objectives.derivatives import dense_hessian, per_example_hessians
from bayes_influence.objectives.members import Members
from bayes_influence.training.stacked import StackedProblem
from tests.layer_types import plain_gradients, small_problem


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("layer", ["custom function", "LSTM", "TransformerEncoder", "Embedding with padding"])
def test_derivatives_of_members_whatever_their_layers(layer):
    objective, data = small_problem(layer)
    moved = objective.at({name: value + 0.1 for name, value in objective.params.items()})
    weights = torch.tensor([[1.0, 0, 2, 1, 1], [1, 1, 1, 1, 0]]).double()
    stack = Members.of([objective, moved])
    problem = StackedProblem(objective, stack.state, data.batch(), weights)
    gradients, values = problem.gradients(problem.start, problem.everyone)
    hessians = problem.hessians(problem.start, problem.everyone)
    singles = problem.example_hessians(1, torch.tensor([3, 0]))
    for row, one in enumerate([objective, moved]):
        plain = weights[row] @ plain_gradients(one, data.batch()) / len(data)
        torch.testing.assert_close(gradients[row], plain + 0.05 * one.flat.theta, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(values[row], one.value(one.params, data.batch(), weights[row]))
        expected = dense_hessian(one, data.batch(), weights[row])
        torch.testing.assert_close(hessians[row], expected, rtol=1e-8, atol=1e-10)
    expected = per_example_hessians(moved, data.select([3, 0]).batch())
    torch.testing.assert_close(singles, expected, rtol=1e-8, atol=1e-10)
