"""Refits that help to choose a group: between the picks of adaptive greedy, and without each candidate."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor
from tqdm.auto import tqdm

from bayes_influence.data.dataset import Dataset
from bayes_influence.influence.directional import loss_slopes
from bayes_influence.influence.problem import FittedProblem
from bayes_influence.influence.response import Response, make_response
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.reweighting import Convention
from bayes_influence.training.minimum import minimum_of

logger = logging.getLogger(__name__)

ADAPTIVE = "adaptive-greedy"
"""One example, or a few, after the other by their removal effects, with a refit between picks."""

HESSIANS = 5
"""Hessians that a refit of a last layer is counted with: it takes four to seven Newton steps."""

AFFORDABLE = 1e11
"""Multiplications and additions, some ten seconds of a core, up to which `"best"` refits between picks."""


@dataclass(frozen=True, eq=False)
class Refitting:
    """Refits of the selected parameters: on a last layer's inputs, where the test examples pass through it, too.

    Attributes:
        response: The damped curvature at the fit.
        objective: At the fit, the last layer's or the network's.
        train: The training examples that it takes.
        test: The test examples, likewise.
        convention: What becomes of the regulariser, see `Convention`.
    """

    response: Response
    objective: Objective
    train: Dataset
    test: Dataset
    convention: Convention

    @classmethod
    def of(cls, response: Response, test: Dataset, convention: Convention) -> Refitting:
        """Of the problem of a response."""
        problem = response.problem
        tests, objective = problem.taken(test)
        train = problem.data if objective is problem.reduced else problem.train
        return cls(response, objective, train, tests, convention)

    def too_much(self, picks: int) -> str:
        """Why so many picks with a refit between them are not to be tried unasked; empty where they are."""
        problem = self.response.problem
        if not (problem.is_linear_head and problem.reduced.is_regularised):
            return (
                "adaptive greedy was not tried: only a regularised last layer has one minimum to refit to; "
                f"method='{ADAPTIVE}' does it from where the network stands"
            )
        operations = picks * HESSIANS * (len(problem.data) * problem.size**2 + problem.size**3 / 3)
        if operations <= AFFORDABLE:
            return ""
        return (
            f"adaptive greedy was not tried: its {picks} refits take some {operations:.0e} operations, and no more "
            f"than {AFFORDABLE:.0e} are taken unasked; take method='{ADAPTIVE}', or more picks between refits (at_once)"
        )

    def adaptive_greedy(self, picks: list[int], sign: float, progress: bool) -> Int[Tensor, " k"]:
        """Ids, the largest removal effects at every turn, with a refit in between."""
        problem, objective, data = self.response.problem, self.objective, self.train
        picked: list[Tensor] = []
        for count in tqdm(picks, desc="adaptive greedy", unit="refit", disable=None if progress else True):
            if picked:
                objective = self.without(torch.cat(picked), objective)
            current = FittedProblem(objective, data, problem.dtype, problem.batch_size)
            slope = current.gradients(*current.taken(self.test)).mean(dim=0)
            solved = make_response(current, damping=self.response.damping).solve(slope).value
            effects = sign * loss_slopes(current.reduced, current.data, solved, problem.batch_size)
            picked.append(data.ids[effects.argsort(descending=True, stable=True)[:count]])
            data = data.without(picked[-1])
        return torch.cat(picked)

    def without(self, ids: Int[Tensor, " m"], near: Objective) -> Objective:
        """The minimum without some examples, from where another objective stands."""
        data = self.train.without(ids)
        share = len(data) / len(self.train) if self.convention == "fixed" else 1.0
        return minimum_of(replace(near, regulariser_weight=self.objective.regulariser_weight / share), data)

    def judged(
        self, found: dict[str, Int[Tensor, " k"]], picks: list[int], sign: float, progress: bool
    ) -> tuple[dict[str, Int[Tensor, " k"]], dict[str, float], str]:
        """Groups with adaptive greedy's among them, the true change without each, and nothing to add; or why not."""
        untried = self.too_much(len(picks))
        if not untried:
            try:
                tried = found | {ADAPTIVE: self.adaptive_greedy(picks, sign, progress)}
                return tried, self.changes(tried), ""
            except ValueError as error:
                untried = f"adaptive greedy was given up: {error}"
        logger.info("%s", untried)
        return found, {}, untried

    def changes(self, groups: dict[str, Int[Tensor, " k"]]) -> dict[str, float]:
        """The true change of the mean test loss without each group: minimum without it minus minimum with all."""
        whole = self._loss_at(minimum_of(self.objective, self.train))
        return {name: self._loss_at(self.without(ids, self.objective)) - whole for name, ids in groups.items()}

    def _loss_at(self, objective: Objective) -> float:
        """The mean test loss."""
        batches = self.test.to(dtype=objective.dtype).batches(self.response.problem.batch_size)
        with torch.no_grad():
            return float(torch.cat([objective.losses(objective.params, batch) for batch in batches]).mean())
