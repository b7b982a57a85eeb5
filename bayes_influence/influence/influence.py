"""`Influence`: how parameters and predictions would change if the training data did."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import grad
from torch.utils.data import DataLoader

from bayes_influence.arguments import check_function, kind_of
from bayes_influence.curvature.damping import Damping
from bayes_influence.curvature.kinds import CurvatureLike, as_curvature
from bayes_influence.curvature.solvers.registry import SolverLike
from bayes_influence.data.checks import warn_of_equal_targets
from bayes_influence.data.dataset import Dataset
from bayes_influence.data.sources import as_dataset
from bayes_influence.influence.groups import GroupInfluence, group_influence
from bayes_influence.influence.measurements import ParameterMeasurement, measurement_gradients, name_of
from bayes_influence.influence.perturbation import perturbation_influence
from bayes_influence.influence.problem import BATCH_SIZE, FittedProblem
from bayes_influence.influence.response import make_response
from bayes_influence.influence.score_files import ScoreRequest
from bayes_influence.influence.scores import InfluenceScores
from bayes_influence.influence.scoring import ScoreBlocks
from bayes_influence.influence.selection import GroupSelection, select_group
from bayes_influence.influence.tokens import token_influence
from bayes_influence.objectives.criteria import Criterion, as_losses
from bayes_influence.objectives.members import check_objective
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import NoRegulariser, WeightDecay
from bayes_influence.objectives.reweighting import Convention

logger = logging.getLogger(__name__)


class Influence:
    """Influence functions of one fitted objective on one training set (Koh & Liang 2017).

    C is the curvature of the whole objective, the regulariser inside, in the selected parameters, and D the damping. At
    a minimum of J, weighting example i up by epsilon moves them by -epsilon (C + D)^-1 g_i; removing it is
    epsilon = -1/n.

    Args:
        objective: The objective, standing at its fitted parameters: any network and any per-example loss.
        train: The n training examples of its mean.
        curvature: `Hessian()`; `GaussNewton()`; `EmpiricalFisher()`; `EKFAC(...)`; `Sharded(...)`; one of their names
            "hessian", "ggn", "empirical-fisher", "ekfac"; or a function `(objective, data) -> operator`.
        solver: `Auto(...)`: a closed-form inverse for EK-FAC, else a Cholesky factor for P <= 2000, else block
            conjugate gradients. Or `Cholesky()`, `Eigendecomposition(...)`, `ConjugateGradients(tolerance=...)`,
            `MINRES(...)` (solves at a saddle too, where there is no retraining response), `LiSSA(...)`,
            `LowRank(rank=...)`, `KroneckerInverse()`, `Absolute(...)` (|A|^-1, a heuristic). By name, with their
            defaults: "auto", "cholesky", "eigendecomposition", "conjugate-gradients", "minres", "lissa", "low-rank",
            "ekfac", "absolute". Or a function `(operator, rhs) -> Solution`.
        damping: `"auto"`: delta = max(1.1 max(0, -lambda_min), 0.1 tr(G)/P); a number: that delta. Both in the
            parameters' own metric: the identity, or for variational parameters the Fisher information of q, as the
            identity would hold the variances fixed. (At an optimum J's curvature is about 1/n of that Fisher
            information, so that a mild delta is far below 1/n.) A `Damping` is taken as it is.
        parameters: Overrides the objective's selection: "all", "layers", "last-layer", "means", "last-layer-means", or
            names. An `Objective` that was given none takes all parameters, where `Influence.of` takes the last layer's:
            scores of the two differ, and say in how many parameters they are.
        dtype: What everything is computed in, whatever the objective's dtype.
        batch_size: Examples that go through the network at a time.
        scoring: How all pairs of scores are computed, see `ScoreBlocks`.
        progress: Whether long loops show a progress bar.

    Attributes:
        problem: The fitted problem: objective, training examples, and the selected parameters' part of both.
        response: C + D and its solver.

    Raises:
        IndefiniteCurvatureError: If C + D is factored and not positive definite; the message names lambda_min and what
            to do.
        TypeError: If an argument is of another kind.
        ValueError: If the likelihood is reduced over the batch, a loss is not finite, a selected parameter takes no
            part in the losses, a name is unknown, or there is one training example.
    """

    def __init__(
        self,
        objective: Objective,
        train: Dataset,
        *,
        curvature: CurvatureLike = "hessian",
        solver: SolverLike = "auto",
        damping: str | float | Damping = "auto",
        parameters: str | Sequence[str] | None = None,
        dtype: torch.dtype = torch.float64,
        batch_size: int = BATCH_SIZE,
        scoring: str = "auto",
        progress: bool = False,
    ) -> None:
        check_objective(objective, "what influence is taken of")
        kind = as_curvature(curvature)
        taken = objective.taking(parameters)
        self.problem = FittedProblem(taken, train, dtype, batch_size, alone=not kind.compares_companies)
        self.response = make_response(self.problem, kind, damping, solver)
        if (stated := self.response.regulariser_examples) is not None:
            logger.warning(
                "the objective's regulariser is a KL divided by n_train=%d, but there are %d training examples: it is "
                "no ELBO of theirs. Give GaussianKL their number; what tempers is `regulariser_weight`",
                *(stated, self.response.n_train),
            )
        if self.response.n_train == 1:
            raise ValueError(
                f"{train.name}: influence is what removing an example does, and of one training example nothing would "
                "be left; give at least two"
            )
        if train.holds_targets:
            warn_of_equal_targets(train.name, train.targets)
        self.progress = progress
        self._blocks = ScoreBlocks(self.problem, scoring, self.response.operator.undamped)

    @classmethod
    def of(
        cls,
        model: nn.Module,
        loss: Criterion,
        train: Any,
        *,
        weight_decay: float = 0.0,
        parameters: str | Sequence[str] = "last-layer",
        **options: Any,
    ) -> Influence:
        """Influence of a model that is trained already, in whoever's loop.

        Its objective is taken to be the mean loss over the training examples plus (weight_decay / 2) ||theta||^2, and
        the model to stand at a minimum of it; `scores` say how far that is from being so.

        Args:
            model: Any network, on any device; it is copied, and left as it is.
            loss: What it was trained with: a likelihood of the library, a criterion of torch, or a function of outputs
                and targets with one loss per example or their mean; see `PerExample`.
            train: What it was trained on: a loader or a dataset of torch, a `Dataset`, or a pair of arrays; see
                `as_dataset`.
            weight_decay: As in `torch.optim.SGD(..., weight_decay=)` and in Adam, of all parameters. AdamW's decoupled
                decay belongs to no objective; its number is a first guess.
            parameters: Which parameters influence is taken in: the last layer's, where `Influence(objective, ...)`
                takes those of the objective, by default all.
            **options: See `Influence`.

        Raises:
            InseparableLossError: If the loss is no mean over examples.
            TypeError: If model, loss or data are none.
            ValueError: As for `Influence`, or if a loader leaves examples out.
        """
        regulariser = WeightDecay(weight_decay) if weight_decay else NoRegulariser()
        objective = Objective(model, as_losses(loss), regulariser, parameters=parameters)
        data = as_dataset(train, "the training examples").to(device=objective.device)
        loaded = isinstance(train, DataLoader) and train.batch_size and "batch_size" not in options
        influence = cls(objective, data, **options, **({"batch_size": train.batch_size} if loaded else {}))
        if loaded and influence.problem.is_linear_head:
            # A loader's batch is what a whole network takes at a time; its last layer alone takes more.
            influence.problem.batch_size = max(influence.problem.batch_size, BATCH_SIZE)
        return influence

    def __repr__(self) -> str:
        return (
            f"Influence({self.response.n_train} training examples, in {self.problem.selection}; "
            f"{self.response.curvature}, damping {self.damping})"
        )

    @property
    def damping(self) -> Damping:
        """D: what was given, or what "auto" came to."""
        return self.response.damping

    def on_parameters(self, ids: int | Iterable[int] | Tensor | None = None) -> Float[Tensor, "k P"]:
        """Predicted change of the selected parameters when one example is removed: +1/n (C + D)^-1 g_i.

        Args:
            ids: Training example ids; all when not given.

        Returns:
            One row per id, laid out as `objective.layout`. Memory k P.

        Raises:
            ValueError: If an id is unknown.
        """
        data = self.problem.data if ids is None else self.problem.data.at(ids)
        return self.response.solve(self.problem.gradients(data).T).value.T / self.response.n_train

    def on_loss(self, test: Any, path: str | Path | None = None) -> InfluenceScores:
        """Influence of every training example on the loss of every test example, -g_t' (C + D)^-1 g_i.

        Memory: t P for the solved systems, one block of training examples, and t n for the scores unless they go to a
        file.

        Args:
            test: Test examples: a `Dataset`, or anything that `as_dataset` takes.
            path: A score file to stream to: scores are then memory-mapped from it, and a killed run resumes.
        """
        tests = self._tests(test)
        return self._scored(self.problem.gradients(*self.problem.taken(tests)), tests, "loss", path)

    def on_measurement(
        self,
        measurement: Callable[..., Tensor],
        test: Any = None,
        path: str | Path | None = None,
    ) -> InfluenceScores:
        """Influence of every training example on any scalar, -grad m_t' (C + D)^-1 g_i.

        Args:
            measurement: With `test`: a function of the network's outputs and the targets with one value per example,
                such as those in `measurements`. Without: a function of the selected parameters (a `Params`) with one
                value.
            test: Test examples.
            path: A score file to stream to.

        Raises:
            TypeError: If the measurement is no function.
            ValueError: If the measurement is not one number (per test example), or has no finite gradient.
        """
        check_function("the measurement", measurement, "pass an object such as Margin(), or a function")
        if test is not None:
            tests = self._tests(test)
            gradients = measurement_gradients(self.problem, measurement, tests)
            return self._scored(gradients, tests, name_of(measurement), path)
        gradients = self._parameter_gradient(measurement).unsqueeze(0)
        return self._scored(gradients, None, name_of(measurement), path)

    def _parameter_gradient(self, measurement: ParameterMeasurement) -> Float[Tensor, " P"]:
        layout = self.problem.reduced.layout

        def value(theta: Tensor) -> Tensor:
            result = measurement(layout.unflatten(theta))
            if not isinstance(result, Tensor) or result.shape != ():
                got = tuple(result.shape) if isinstance(result, Tensor) else kind_of(result)
                raise ValueError(
                    f"a measurement of the parameters must be one number, shape (), got {got}; for one "
                    f"per test example pass `test`"
                )
            return result

        gradient = grad(value)(self.problem.theta)
        if not torch.isfinite(gradient).all():
            raise ValueError(f"the gradient of the measurement {name_of(measurement)!r} is not finite")
        return gradient

    def self_influence(self) -> Float[Tensor, " n"]:
        """g_i' (C + D)^-1 g_i of every training example, in their order: large values mark likely wrong labels.

        One solve per example, a block at a time.
        """
        pieces = [
            (gradients * self.response.solve(gradients.T).value.T).sum(dim=1)
            for gradients in self.problem.gradient_blocks(self.problem.data)
        ]
        return torch.cat(pieces)

    def of_perturbation(self, ids: int | Iterable[int] | Tensor, test: Any) -> Any:
        """Influence of moving a training input on every test loss: -g_t' (C + D)^-1 grad_x grad_theta l_i.

        To first order, moving x_i by d changes the test loss by (1/n) times this times d (Koh & Liang 2017, eq. 5).

        Args:
            ids: Of k training examples.
            test: t test examples.

        Returns:
            Structured as the inputs, each leaf (t, k, ...).

        Raises:
            TypeError: If the inputs are not real numbers.
            ValueError: If an id is unknown.
        """
        solved = self.response.solve(self.problem.gradients(*self.problem.taken(self._tests(test))).T).value
        return perturbation_influence(self.problem, solved, ids)

    def of_tokens(self, ids: int | Iterable[int] | Tensor, test: Any) -> Float[Tensor, "t k T"]:
        """Predicted change of every test loss when one token's term is taken out of a training sequence's loss.

        +1/n g_t' (C + D)^-1 grad l_is, with l_i = sum_s l_is: a token's share of its sequence's removal effect, to
        which the shares add up. The token stays in the context of those after it. (With `NextToken("mean")` the terms
        keep the denominator that they have.)

        Args:
            ids: Of k training sequences.
            test: t test examples.

        Raises:
            TypeError: If the likelihood is no sum over tokens, as `NextToken` is.
            ValueError: If an id is unknown.
        """
        solved = self.response.solve(self.problem.gradients(*self.problem.taken(self._tests(test))).T).value
        return token_influence(self.problem, solved, ids)

    def of_group(
        self, ids: Iterable[int] | Tensor, *, order: int | str = "auto", convention: Convention = "fixed"
    ) -> GroupInfluence:
        """What removing a group together does to the parameters, and to any loss; see `group_influence`."""
        return group_influence(self.response, ids, order=order, convention=convention)

    def select_group(
        self,
        test: Any,
        size: int,
        *,
        method: str = "best",
        direction: str = "increase",
        convention: Convention = "fixed",
        at_once: int = 1,
    ) -> GroupSelection:
        """The group whose removal changes the mean test loss most; see `selection.select_group`."""
        return select_group(
            self.response,
            self._tests(test),
            size,
            method=method,
            direction=direction,
            convention=convention,
            at_once=at_once,
            progress=self.progress,
        )

    def _tests(self, test: Any) -> Dataset:
        return as_dataset(test, "the test examples").to(device=self.problem.objective.device)

    def _scored(
        self, gradients: Float[Tensor, "t P"], tests: Dataset | None, measurement: str, path: str | Path | None
    ) -> InfluenceScores:
        test_ids = torch.zeros(1, dtype=torch.int64) if tests is None else tests.ids
        request = ScoreRequest(self.response, self._blocks, gradients, test_ids, measurement, self.progress)
        scores = request.in_memory() if path is None else request.to_file(path)
        return scores if tests is None else replace(scores, examples=(self.problem.train, tests))
