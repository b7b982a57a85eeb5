"""The linear response by products, held against the dense one and against its formula."""

import pytest
import torch

from bayes_influence.curvature import cost
from bayes_influence.curvature.operators.gauss_newton import GaussNewtonOperator
from bayes_influence.objectives.derivatives import per_example_gradients
from bayes_influence.objectives.reweighting import Removals
from bayes_influence.retraining.linear_response import LinearResponse, response_plan
from bayes_influence.training.stacked import StackedProblem


def _flat(fits, refits):
    return fits.objective.layout.flatten(refits.params)


@pytest.mark.parametrize("groups", [False, True])
def test_a_linear_response_by_products_is_the_dense_one(unfinished, train, removed, monkeypatch, groups):
    """A step is +(1/n) (G + lambda + delta)^-1 g_i, whichever way its system is solved."""
    taken = Removals.of_groups([torch.tensor([3, 5]), torch.tensor([7])], 2) if groups else removed
    dense = _flat(unfinished, LinearResponse(0.1).refit(unfinished, train, taken))
    monkeypatch.setattr(cost, "DENSE_SIZE", 0)
    monkeypatch.setattr(StackedProblem, "hessians", None)
    found = _flat(unfinished, LinearResponse(0.1).refit(unfinished, train, taken))
    steps = [flat[:, 1:] - flat[:, :1] for flat in (found, dense)]
    assert float((steps[0] - steps[1]).norm()) < 1e-6 * float(steps[1].norm())
    torch.testing.assert_close(found[:, 0], dense[:, 0], rtol=0, atol=1e-12)
    if groups:
        return
    for seed in range(2):
        objective = unfinished.at(seed)
        curvature = GaussNewtonOperator(objective, train).dense() + 0.1 * torch.eye(steps[0].shape[2]).double()
        gradients = per_example_gradients(objective, train.at(removed[seed]).batch())
        expected = torch.linalg.solve(curvature, gradients.T).T / len(train)
        torch.testing.assert_close(steps[0][seed], expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


def test_the_plan_of_a_linear_response_says_how_it_is_solved():
    assert str(response_plan(2000, 100, 2, 5, 8)) == (
        "the linear response in 2000 parameters, by a dense Hessian: holds 192 MB"
    )
    assert str(response_plan(200_000, 100, 2, 5, 8)) == (
        "the linear response in 200000 parameters, by products with their Hessian: holds 80 MB"
    )
    assert "by products" in str(response_plan(2000, 10**6, 2, 5, 8))  # a dense one would take a day
    assert "by a dense" in str(response_plan(2000, None, 2, 5, 8))
