"""`Influence`: how parameters and predictions would change if the training data did."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.curvature.damping import Damping, IdentityDamping
from bayes_influence.curvature.operators.base import DenseOperator
from bayes_influence.curvature.solvers.dense import CholeskyFactor
from bayes_influence.curvature.solvers.solution import Solution
from bayes_influence.data.dataset import Dataset
from bayes_influence.influence.scores import InfluenceScores
from bayes_influence.objectives.derivatives import dense_hessian, per_example_gradients
from bayes_influence.objectives.head import reduced_problem
from bayes_influence.objectives.objective import Objective


class Influence:
    """Influence functions of one fitted objective on one training set (Koh & Liang 2017).

    H is the Hessian of the whole objective, the regulariser inside, in the selected parameters. At a minimum of J,
    weighting example i up by epsilon moves them by -epsilon H^-1 g_i; removing it is epsilon = -1/n.

    Everything is computed in float64, whatever the objective's dtype.

    Args:
        objective: The objective, standing at its fitted parameters.
        train: The n training examples of its mean.
        damping: D, added to H before it is inverted: a number for a multiple of the identity, or a `Damping`. For
            variational parameters use `FisherDamping`: the identity would hold the variances fixed.
        parameters: Overrides the objective's selection: "all", "last-layer", "means", "last-layer-means", or names.

    Attributes:
        factor: The factored H + D, with its extreme eigenvalues.

    Raises:
        IndefiniteCurvatureError: If H + D is not positive definite; the message names lambda_min and what to do.
        ValueError: If the likelihood is reduced over the batch, or a loss is not finite.
    """

    def __init__(
        self,
        objective: Objective,
        train: Dataset,
        *,
        damping: float | Damping = 0.0,
        parameters: str | Sequence[str] | None = None,
    ) -> None:
        objective = objective if parameters is None else replace(objective, selection=parameters)
        self.objective = objective.double()
        self.train = train.to(dtype=torch.float64)
        self.objective.check(self.train.batch())
        self.damping = IdentityDamping(damping) if isinstance(damping, int | float) else damping
        self._problem, batch = reduced_problem(self.objective, self.train.batch())
        curvature = dense_hessian(self._problem, batch) + torch.diag(self.damping.diagonal(self._problem))
        self.factor = CholeskyFactor(DenseOperator(curvature))
        self._gradients = per_example_gradients(self._problem, batch)

    def on_parameters(self, ids: int | Iterable[int] | Tensor | None = None) -> Float[Tensor, "k P"]:
        """Predicted change of the selected parameters when an example is removed: +1/n (H + D)^-1 g_i.

        Args:
            ids: Training example ids; all when not given.

        Returns:
            One row per id, laid out as `objective.layout`.
        """
        gradients = self._gradients if ids is None else self._gradients[self.train.positions(ids)]
        return self.factor.solve(gradients.T).value.T / len(self.train)

    def on_loss(self, test: Dataset) -> InfluenceScores:
        """Influence of every training example on the loss of every test example, -g_t' (H + D)^-1 g_i.

        Memory (t + n) P for the gradients and t n for the scores.
        """
        test = test.to(dtype=torch.float64)
        problem, batch = reduced_problem(self.objective, test.batch())
        solution = self.factor.solve(per_example_gradients(problem, batch).T)
        return InfluenceScores(
            values=-(solution.value.T @ self._gradients.T),
            train_ids=self.train.ids,
            test_ids=test.ids,
            damping=repr(self.damping),
            smallest_eigenvalue=self.factor.smallest_eigenvalue,
            largest_eigenvalue=self.factor.largest_eigenvalue,
            error=self._error_bound(solution, batch_gradients=self._gradients),
        )

    def _error_bound(self, solution: Solution, batch_gradients: Float[Tensor, "n P"]) -> Float[Tensor, "t n"]:
        """|y'g_i - g_t'A^-1 g_i| <= ||r_t|| ||g_i|| / lambda_min, r_t the residual of A y = g_t."""
        residual = solution.residual * (self.factor.matrix @ solution.value).norm(dim=0)
        return torch.outer(residual, batch_gradients.norm(dim=1)) / self.factor.smallest_eigenvalue
