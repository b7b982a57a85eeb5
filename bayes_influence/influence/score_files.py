"""Scores for all pairs, in memory or streamed to a score file that a killed run resumes."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from bayes_influence.curvature.cost import Plan
from bayes_influence.data.files import checked_place
from bayes_influence.data.fingerprint import UnidentifiableError, fingerprint
from bayes_influence.data.locks import only_writer
from bayes_influence.data.versions import environment
from bayes_influence.influence.response import Response
from bayes_influence.influence.scores import InfluenceScores
from bayes_influence.influence.scoring import ScoreBlocks
from bayes_influence.influence.unfinished import SolvedTests, UnfinishedScores
from bayes_influence.objectives.identity import identity

logger = logging.getLogger(__name__)

DRIFT_FLAG = 1.0
"""Drift, in units of a typical removal effect, from which an estimate speaks of another point than its minimum."""

FOR_A_MINIMUM = (
    "Train longer, start from `minimum_of`, check that the objective has the regulariser that was trained with, or "
    "read the scores as a proximal response"
)
"""What to do there."""


@dataclass(frozen=True, eq=False)
class ScoreRequest:
    """What is to be scored: the gradients of t test measurements against all training examples.

    Attributes:
        response: The damped curvature at the fit.
        blocks: How training examples are scored.
        gradients: (t, P) grad m_t.
        test_ids: (t,).
        measurement: What m is called.
        progress: Whether to show a progress bar.
    """

    response: Response
    blocks: ScoreBlocks
    gradients: Float[Tensor, "t P"]
    test_ids: Int[Tensor, " t"]
    measurement: str
    progress: bool = False

    def in_memory(self) -> InfluenceScores:
        """All scores at once. Memory t n.

        Raises:
            TooLargeError: If they do not fit.
        """
        train_ids = self.response.problem.data.ids
        plan = Plan(
            f"scores of {len(self.test_ids)} x {len(train_ids)} pairs in memory",
            len(self.test_ids) * len(train_ids) * self.gradients.dtype.itemsize,
            "stream them to a file (path=...), or take fewer test examples at a time",
        )
        plan.check(self.gradients.device)
        solved = self.solve()
        values = self.gradients.new_empty(len(self.test_ids), len(train_ids))
        norms = self.gradients.new_empty(len(train_ids)) if self.blocks.gives_norms else None
        total = self._fill(solved, values, norms)
        if total is not None:
            self.response.problem.know_gradient(total)
        return self._weighed(
            InfluenceScores(
                values,
                train_ids,
                self.test_ids,
                residual_norms=solved.residual_norms,
                gradient_norms=norms,
                drift=self._drift(solved),
                stationarity=self._stationarity(),
                **solved.notes,
            )
        )

    def to_file(self, path: str | Path) -> InfluenceScores:
        """Scores straight into a file of `InfluenceScores.save`'s format, memory-mapped; a killed run resumes.

        The same request, on the same data, objective, curvature, solver and versions, continues after the last block
        that is on disk as it was written; see `UnfinishedScores`. Memory: one block of scores.

        Raises:
            BusyError: If another process, or another thread, streams to the same path.
            TypeError: If this is no path.
            ValueError: If an unfinished run of something else is in the way, or the path is no place for a file.
        """
        target = checked_place(path, "scores")
        with only_writer(target, f"scores to {target}"):
            kept = UnfinishedScores(target, *self._identity())
            solved = kept.read_solved()
            if solved is None:
                solved = self.solve()
                solved.notes["stationarity"] = self._stationarity()
                kept.write_solved(solved)
            tensors = kept.open(self._layout(), solved.notes)
            tensors["train_ids"].copy_(self.response.problem.data.ids)
            tensors["test_ids"].copy_(self.test_ids)
            tensors["residual_norms"].copy_(solved.residual_norms)
            drift = self._drift(solved)
            if drift is not None:
                tensors["drift"].copy_(drift)
            self._fill(solved, tensors["values"], tensors.get("gradient_norms"), kept)
            kept.finish()
        return self._weighed(InfluenceScores.load(target))

    @property
    def _is_whole(self) -> bool:
        """Whether this process holds all training examples, and so the gradient of J."""
        return self.response.n_train == len(self.response.problem.data)

    def _drift(self, solved: SolvedTests) -> Float[Tensor, " t"] | None:
        """What a Newton step to the minimum would change, with nothing removed."""
        return -(solved.value.T @ self.response.problem.gradient) if self._is_whole else None

    def _stationarity(self) -> float | None:
        return float(self.response.problem.gradient.norm()) if self._is_whole else None

    def _weighed(self, scores: InfluenceScores) -> InfluenceScores:
        """The scores, with a warning where they stand on no minimum: the first of a measurement at an objective."""
        if scores.drift is None:
            return scores
        moved, warned = scores.typical_drift, self.response.warned
        if moved >= DRIFT_FLAG and scores.measurement not in warned:
            warned.add(scores.measurement)
            logger.warning(
                "the objective is at no minimum: its gradient norm is %.2g, and a step to the minimum would move the "
                "%s %.2g times as much as removing an example does. %s",
                *(scores.stationarity, scores.measurement, moved, FOR_A_MINIMUM),
            )
        return scores

    def solve(self) -> SolvedTests:
        """Solves for every test measurement; warns where none of them has a slope, so that no score is other than 0."""
        if not self.gradients.any():
            logger.warning(
                "the %s has no slope in the selected parameters at any test example, so every score is 0: a "
                "measurement that is constant in the outputs has no influence to ask for",
                self.measurement,
            )
        solution = self.response.solve(self.gradients.T)
        notes = {
            "measurement": self.measurement,
            "parameters": self.response.problem.selection,
            "curvature": self.response.curvature.name,
            "damping": repr(self.response.damping),
            "solver": solution.method,
            "converged": solution.converged,
            "smallest_eigenvalue": solution.smallest_eigenvalue,
            "largest_eigenvalue": solution.largest_eigenvalue,
            "regulariser_examples": self.response.regulariser_examples,
        }
        return SolvedTests(solution.value, solution.residual * self.gradients.norm(dim=1), notes)

    def _fill(
        self, solved: SolvedTests, values: Tensor, norms: Tensor | None, kept: UnfinishedScores | None = None
    ) -> Float[Tensor, " P"] | None:
        """Writes the scores block by block; the sum of the gradients that were formed for it."""
        total: Tensor | None = torch.zeros_like(self.gradients[0])
        n, done = len(self.response.problem.data), 0 if kept is None else kept.done
        hidden = None if self.progress else True
        with tqdm(total=n, initial=done, desc="scores", unit="example", disable=hidden) as bar:
            for block in self.blocks(solved.value, start=done):
                stop = block.start + block.products.shape[1]
                values[:, block.start : stop] = -block.products
                if norms is not None and block.norms is not None:
                    norms[block.start : stop] = block.norms
                if kept is not None:
                    kept.mark(stop)
                total = None if total is None or block.total is None else total + block.total
                bar.update(stop - block.start)
        return total

    def _layout(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        t, n, dtype = len(self.test_ids), len(self.response.problem.data), self.gradients.dtype
        layout: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
            "values": (dtype, (t, n)),
            "train_ids": (torch.int64, (n,)),
            "test_ids": (torch.int64, (t,)),
            "residual_norms": (dtype, (t,)),
        }
        layout |= {"drift": (dtype, (t,))} if self._is_whole else {}
        return layout | ({"gradient_norms": (dtype, (n,))} if self.blocks.gives_norms else {})

    def _identity(self) -> tuple[str, str]:
        """A fingerprint of everything that the scores depend on, and why there is none to go by, if so."""
        problem, response = self.response.problem, self.response
        try:
            found = fingerprint(
                objective=identity(problem.reduced),
                data=problem.data,
                curvature=response.curvature,
                damping=response.damping.diagonal(problem.reduced),
                solver=response.solver,
                scoring=self.blocks.scoring,
                measurement=self.measurement,
                gradients=self.gradients,
                test_ids=self.test_ids,
                versions=environment(),
            )
        except UnidentifiableError as error:
            return uuid4().hex, f"it cannot be told whether this is the same request, as {error}"
        return found, "it is of another fit, training or test set, curvature, damping, solver or version"
