"""Refits that are minima: the objective without each group, minimised to a stated gradient norm."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from bayes_influence.arguments import check_at_least
from bayes_influence.data.dataset import Dataset
from bayes_influence.objectives.apart import Apart
from bayes_influence.objectives.reduction import reduce
from bayes_influence.objectives.reweighting import Removals, as_removals
from bayes_influence.retraining.protocol import RetrainingProtocol, Trained
from bayes_influence.retraining.refits import Refits
from bayes_influence.retraining.turns import from_controls, refits_in_turns
from bayes_influence.training.minimum import TOLERANCE


@dataclass(frozen=True)
class Minimum(RetrainingProtocol):
    """The minimum nearest the fit: for a regularised last layer *the* answer, by Newton's method.

    In all layers it is the minimum that the fit flows to, by L-BFGS where Hessians cost much, see `minimise`; many
    single removals then share the Hessian of their control. That needs a smooth activation (tanh, GELU, softplus):
    networks of SELUs or ReLUs have minima at kinks, where the gradient jumps and its norm does not vanish. Refits of
    all their layers stall, typically at norms of 1e-3 to 1e-2, and are marked as not converged.

    Memory in a linear last layer of P parameters and n examples of D features: n (D + C^2) numbers beside the data, and
    6 P^2 for each of the refits that are made together, at most 30 million / P^2 of them, or one.

    Attributes:
        tolerance: Gradient norm at which a refit is done.
    """

    tolerance: float = TOLERANCE
    name = "newton"

    def __post_init__(self) -> None:
        check_at_least(0, tolerance=self.tolerance)

    def refit(
        self, trained: Trained, train: Dataset, removed: Removals | Int[Tensor, "*E k"], *, progress: bool = False
    ) -> Refits:
        """As `RetrainingProtocol.refit`; refits that did not reach the tolerance are marked, not hidden."""
        reduction = reduce(trained, train)
        members = reduction.members
        removals = as_removals(removed, len(members))
        if (apart := Apart.of(members, train)) is not None:
            of_each = removals.of_seeds([index for index in range(len(members)) for _ in range(apart.size)])
            refits = self.refit(apart.members, train, of_each, progress=progress)
            return Refits(
                reduction=reduction,
                params=apart.joined(refits.params),
                removals=removals,
                gradient_norms=apart.norms(refits.gradient_norms),
                converged=apart.each(refits.converged).all(1),
            )
        return refits_in_turns(
            reduction,
            removals,
            lambda problem, rows, positions: from_controls(problem, len(rows), positions, self.tolerance),
            progress=progress,
        )
