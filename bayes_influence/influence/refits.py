"""One exact refit of the selected parameters, for estimands that train again between two looks."""

from __future__ import annotations

from bayes_influence.data.dataset import Dataset
from bayes_influence.influence.problem import FittedProblem
from bayes_influence.objectives.objective import Objective
from bayes_influence.training.newton import StackedProblem, minimise_newton


def newton_refit(objective: Objective, train: Dataset) -> Objective:
    """The minimum of J in the selected parameters by Newton's method, in float64, warm from where the objective stands.

    For a last layer, or a few thousand parameters: the Hessian is held densely.

    Raises:
        ValueError: If Newton's method does not converge: the minimum may lie at infinity, or the network have a kink.
    """
    problem = FittedProblem(objective, train)
    stacked = {name: value.unsqueeze(0) for name, value in problem.reduced.params.items()}
    result = minimise_newton(StackedProblem(problem.reduced, stacked, problem.data.batch()))
    if not result.converged.all():
        raise ValueError(
            f"Newton's method stopped at gradient norm {float(result.gradient_norms[0]):.3g}; add weight decay, or "
            f"pass a refit of your own"
        )
    moved = {name: value[0] for name, value in result.params.items()}
    return problem.objective.at({**problem.objective.params, **moved})
