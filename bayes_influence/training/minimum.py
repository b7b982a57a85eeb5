"""The one way to a minimum: from where networks stand, in their selected parameters, to a stated gradient norm."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bayes_influence.arguments import check_at_least
from bayes_influence.curvature.solvers.automatic import DENSE_SIZE
from bayes_influence.data.dataset import Dataset, check_dataset
from bayes_influence.objectives.apart import Apart
from bayes_influence.objectives.members import Members, check_objective, member
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.reduction import reduce
from bayes_influence.training.lbfgs import minimise_lbfgs
from bayes_influence.training.metric import Metric, output_metric
from bayes_influence.training.newton import NewtonResult, joined, minimise_newton
from bayes_influence.training.stacked import StackedProblem, moved

logger = logging.getLogger(__name__)

TOLERANCE = 1e-10
"""Gradient norm at which a minimum is reached, where nothing else is said."""

ROUNDING = 1e-12
"""Gradient norm in float64 below which nothing but rounding is left."""

NEAR = 1e-5
"""Gradient norm below which what stopped L-BFGS is rounding, and a Hessian brings a member to its tolerance."""

NEWTON_STEPS, NEWTON_STEPS_LINEAR = 100, 300
"""Trial steps of Newton's method: of a whole network, which may creep on at a kink, and of a linear last layer, where
progress leads to the minimum (behind a narrow smooth hinge 105 were needed)."""

RENEWED_ENTRIES = 20_000
"""Parameters x examples of a whole network up to which Newton's method is quicker than L-BFGS.

To 1e-7, on 149 examples: of 43 parameters .05 and .09 s a network, of 131 .17 and .30, of 323 1.5 and .36; of Bayesian
ones of 86 parameters .5 and .9 s, of 198 2.5 and 1.2.
"""


@dataclass(frozen=True, eq=False)
class AtMinimum:
    """Members where their minimisation ended.

    Attributes:
        members: The members there.
        gradient_norms: (E,) Euclidean norm of grad J in the selected parameters.
        converged: (E,) whether that norm is at most the tolerance.
        values: (E,) J there, of a last layer without what the regulariser has of the parameters before it.
        gradient_norms_before: (E,) of the norm where they stood before.
        values_before: (E,) of J, likewise.
    """

    members: Members
    gradient_norms: Float[Tensor, " E"]
    converged: Bool[Tensor, " E"]
    values: Float[Tensor, " E"]
    gradient_norms_before: Float[Tensor, " E"]
    values_before: Float[Tensor, " E"]

    @property
    def sentences(self) -> tuple[str, ...]:
        """What the minimisation changed, a sentence for every member."""
        columns = (self.values_before, self.values, self.gradient_norms_before, self.gradient_norms)
        rows = zip(self.members.labels, *(column.tolist() for column in columns), strict=True)
        return tuple(
            f"polished {label}: J, without the regulariser of other parameters, from {before:.6g} to {after:.6g}, its "
            f"gradient norm from {steep:.1e} to {flat:.1e}"
            for label, before, after, steep, flat in rows
        )


def minimised(
    trained: Members | Objective, train: Dataset, *, tolerance: float = TOLERANCE, progress: bool = False
) -> AtMinimum:
    """Minimises J of every member in its selected parameters, from where it stands, in the dtype that it has.

    In a last layer with a regulariser the problem is convex and this is *the* minimum. In all layers it is the one that
    the network flows to, which needs a smooth activation: networks with kinks (ReLU, SELU) have minima where the
    gradient does not vanish.

    Networks of a deep ensemble are minimised one by one, see `Apart`.

    Args:
        trained: Networks; they need not have converged.
        train: Their training examples.
        tolerance: Gradient norm at which a member is done.
        progress: Whether to show a progress bar over steps, with the gradient norm.

    Returns:
        The members at their minima; those that did not reach the tolerance are marked, not hidden.

    Raises:
        TypeError: If these are no trained networks and no data set, or the tolerance no number.
        ValueError: As `reduce`.
    """
    check_at_least(0, tolerance=tolerance)
    reduction = reduce(trained, train)
    if (apart := Apart.of(reduction.members, train)) is not None:
        found = minimised(apart.members, train, tolerance=tolerance, progress=progress)
        return _together(reduction.members, apart, found)
    problem = StackedProblem.of(reduction)
    slopes, values = problem.gradients(problem.start, problem.everyone)
    result = minimise(problem, tolerance=tolerance, progress=progress)
    params = moved(reduction.members, result.free)
    first = {name: value[0] for name, value in params.items()}
    members = replace(reduction.members, params=params, objective=reduction.members.objective.at(first))
    if not result.converged.all():
        worst = int(result.gradient_norms.argmax())
        logger.warning(
            "%d of %d networks did not reach a gradient norm of %.1e (worst: %.1e, %s); %s",
            *(int((~result.converged).sum()), len(members), tolerance),
            *(float(result.gradient_norms[worst]), members.labels[worst]),
            _why(members.objective, float(result.gradient_norms[worst])),
        )
    ends = (result.gradient_norms, result.converged, result.values)
    return AtMinimum(members, *ends, slopes.norm(dim=1), values)


def _together(whole: Members, apart: Apart, found: AtMinimum) -> AtMinimum:
    """Ensembles whose networks were minimised one by one."""
    params = {**whole.params, **apart.joined(found.members.params)}
    return AtMinimum(
        replace(whole, params=params, objective=whole.objective.at(member(params, 0))),
        apart.norms(found.gradient_norms),
        apart.each(found.converged).all(1),
        apart.each(found.values).mean(1),
        apart.norms(found.gradient_norms_before),
        apart.each(found.values_before).mean(1),
    )


def minimum_of(
    objective: Objective, train: Dataset, *, tolerance: float = TOLERANCE, progress: bool = False
) -> Objective:
    """One objective at its minimum, in float64; see `minimised`.

    Raises:
        TypeError: If this is no `Objective`, or no data set.
        ValueError: If the gradient norm is not reached, or as `reduce`.
    """
    check_objective(objective, "what is minimised")
    check_dataset(train, "the training examples")
    double, examples = objective.to(dtype=torch.float64), train.to(dtype=torch.float64)
    found = minimised(double, examples, tolerance=tolerance, progress=progress)
    if not found.converged.all():
        reached = float(found.gradient_norms[0])
        advice = "add weight decay, use a smooth activation, or pass a refit of your own"
        if reached < ROUNDING:
            advice = f"rounding ends there: take a tolerance of {10 * reached:.0e}"
        raise ValueError(f"the minimisation stopped at gradient norm {reached:.3g}, above {tolerance:.3g}; {advice}")
    return found.members.at(0)


def minimise(
    problem: StackedProblem,
    *,
    tolerance: float = TOLERANCE,
    hessians: Float[Tensor, "M P P"] | None = None,
    metric: Metric | None = None,
    progress: bool = False,
) -> NewtonResult:
    """Newton's method where Hessians cost little (`is_dense`), else L-BFGS.

    The metric of L-BFGS is that of Hessians that are given, else the one given for all members, else that of each
    member's outputs in a linear last layer (`output_metric`).

    Rounding stops L-BFGS at norms of some 1e-9 to 1e-8. Where Hessians can be held, members that end above the
    tolerance go on from there by Newton's method.
    """
    if is_dense(problem):
        steps = NEWTON_STEPS if problem.linear is None else NEWTON_STEPS_LINEAR
        return minimise_newton(problem, tolerance=tolerance, max_iterations=steps, hessians=hessians, progress=progress)
    if hessians is not None:
        metrics = [Metric.of(hessian) for hessian in hessians]
    else:
        metrics = [metric or output_metric(problem, index) for index in range(len(problem.start))]
    found = minimise_lbfgs(problem, tolerance=tolerance, metrics=metrics, progress=progress)
    left = (~found.converged & (found.gradient_norms < NEAR)).nonzero()[:, 0]
    if not len(left) or not holds_hessians(problem):
        return found
    near = problem.from_start(problem.layout.flatten(found.free))
    given = [None] * len(left) if hessians is None else hessians[left].split(1)
    parts = zip(left.split(1), given, strict=True)
    ends = [minimise_newton(near.only(row), tolerance=tolerance, hessians=own) for row, own in parts]
    return _replaced(problem, found, left, joined(ends))


def _replaced(
    problem: StackedProblem, found: NewtonResult, rows: Int[Tensor, " k"], other: NewtonResult
) -> NewtonResult:
    """The result with that of some members replaced."""
    ends = problem.layout.flatten(found.free)
    ends[rows] = problem.layout.flatten(other.free)
    return replace(
        found,
        free=problem.layout.unflatten(ends),
        values=found.values.index_copy(0, rows, other.values),
        gradient_norms=found.gradient_norms.index_copy(0, rows, other.gradient_norms),
        converged=found.converged.index_copy(0, rows, other.converged),
        iterations=found.iterations + other.iterations,
    )


def is_dense(problem: StackedProblem) -> bool:
    """Whether its Hessians cost so little that they are renewed on the way.

    Those of linear last layers in closed form do, and those of small whole networks. With more, a Hessian is worth
    hundreds of gradients: Newton's method took 115 s on a tanh convolutional network of 358 parameters and stopped at a
    gradient norm of 4e-4, L-BFGS took 5 s to 2e-8.
    """
    small = problem.linear is not None or problem.layout.total * problem.examples <= RENEWED_ENTRIES
    return small and holds_hessians(problem)


def holds_hessians(problem: StackedProblem) -> bool:
    """Whether its Hessians are small enough to be held and factored."""
    return problem.layout.total <= DENSE_SIZE


def _why(objective: Objective, reached: float) -> str:
    """What usually keeps such an objective from its gradient norm."""
    if reached < ROUNDING:
        return "rounding ends there"
    if objective.dtype != torch.float64:
        return f"in {objective.dtype} rounding keeps the norm up: give data in torch.float64, or a larger tolerance"
    if not objective.is_regularised:
        return "without a regulariser the minimum may lie at infinity"
    return "activations with a kink have minima where the gradient does not vanish"
