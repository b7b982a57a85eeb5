"""Refits that are held near the fit: the proximal objective, and the proximal Bregman response function (PBRF).

Bae et al. 2022 (arXiv 2209.05364) ask what influence functions answer for a network that is no minimum: the PBRF.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call

from bayes_influence.arguments import check_at_least
from bayes_influence.curvature.damping import Damping, as_damping, check_damping
from bayes_influence.data.arguments import as_call
from bayes_influence.data.batch import Batch
from bayes_influence.data.dataset import Dataset
from bayes_influence.forward_mode import jvp
from bayes_influence.objectives.criteria import read_outputs
from bayes_influence.objectives.members import Members, member
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import Params
from bayes_influence.objectives.reduction import reduce
from bayes_influence.objectives.reweighting import Removals, as_removals
from bayes_influence.retraining.protocol import RetrainingProtocol, Trained
from bayes_influence.retraining.refits import Refits
from bayes_influence.retraining.turns import from_controls, refits_in_turns, repeated
from bayes_influence.torch_internals import tree_map
from bayes_influence.training.newton import NewtonResult
from bayes_influence.training.stacked import StackedProblem

OWN, ANCHOR, METRIC = "network.", "anchor.", "metric."
"""Where theta, theta_hat and the metric stand among the parameters of an `Anchored` network."""


class Anchored(nn.Module):
    """A network, the place it is held at, and the diagonal of the metric that it is held in, all shaped alike.

    Only a holder of parameters, so that members of a stack can each have an anchor of their own.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.anchor = copy.deepcopy(network)
        self.metric = copy.deepcopy(network)


@dataclass(frozen=True, eq=False)
class ProximalObjective(Objective):
    """The objective with a pull to an anchor theta_hat, in a diagonal metric D, itself or with Bregman divergences.

        Q(theta, w) = J(theta, w) + 1/2 (theta - theta_hat)' D (theta - theta_hat)                      (proximal)
        Q(theta, w) = (1/n) sum_j [D_l(f_theta(x_j), f_hat(x_j)) + (w_j - 1) l_j(theta)] + s D_R(theta, theta_hat)
                      + 1/2 (theta - theta_hat)' D (theta - theta_hat)                                  (PBRF)

    D_l is the Bregman divergence of the loss in the outputs, D_l(f, h) = l(f) - l(h) - grad l(h)'(f - h), for
    cross-entropy KL(p_h || p_f); D_R is that of the regulariser, (lambda/2) ||theta - theta_hat||^2 for weight decay,
    which is the damping that weight decay adds to the curvature. With nothing removed, theta_hat itself minimises the
    second, whether it minimises J or not, and its Hessian there is the Gauss-Newton matrix G + s grad^2 R + D.

    Attributes:
        bregman: Whether this is the second.
    """

    bregman: bool = False

    def losses(self, state: Params, batch: Batch) -> Float[Tensor, " B"]:
        """Per-example losses l_i of the network itself, as they were before it was anchored."""
        return self.losses_of(self._outputs(part_of(state, OWN), batch.inputs), batch)

    def value(
        self,
        state: Params,
        batch: Batch,
        data_weights: Float[Tensor, " B"] | None = None,
        regulariser_weight: float | Tensor | None = None,
    ) -> Float[Tensor, ""]:
        """Q over one batch, of which all constants in theta are left out."""
        own, anchor, metric = (part_of(state, part) for part in (OWN, ANCHOR, METRIC))
        weight = self.regulariser_weight if regulariser_weight is None else regulariser_weight
        buffers = {name: own.pop(name) for name in own.keys() - anchor.keys()}
        outputs = self._outputs({**own, **buffers}, batch.inputs)
        losses = self.losses_of(outputs, batch)
        weighted = losses if data_weights is None else data_weights * losses
        # jvp wants the tangents in the order of the primals, which is not always that of `own`.
        step = {name: own[name] - value for name, value in anchor.items()}
        pull = torch.stack([(metric[name] * step[name].square()).sum() for name in own]).sum()
        value = weighted.mean() + weight * self.regulariser(own) + 0.5 * pull
        if not self.bregman:
            return value
        held = self._outputs({**anchor, **buffers}, batch.inputs)
        apart = tree_map(torch.sub, outputs, held)
        slopes = jvp(lambda values: self.losses_of(values, batch), (held,), (apart,))[1]
        slope = jvp(self.regulariser, (anchor,), (step,))[1]
        return value - slopes.mean() - weight * slope

    def _outputs(self, params: Params, inputs: Any) -> Any:
        with self.exclusive() as network:
            return read_outputs(
                self.likelihood, functional_call(network.get_submodule(OWN.rstrip(".")), params, *as_call(inputs))
            )


def part_of(params: Params, prefix: str) -> Params:
    """The tensors under a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in params.items() if name.startswith(prefix)}


def held_problem(
    objective: Objective, problem: StackedProblem, metric: Float[Tensor, "M P"], *, bregman: bool
) -> StackedProblem:
    """The members of a problem, each held where it starts.

    Args:
        objective: What the problem minimises.
        problem: Its members, their starting points the anchors.
        metric: Diagonals D, laid out as the objective's selected parameters.
        bregman: Whether the losses become Bregman divergences (PBRF).
    """
    params = {name: problem.state[name] for name in objective.params}
    buffers = {OWN + name: value for name, value in problem.state.items() if name not in params}
    diagonal = {name: torch.zeros_like(value) for name, value in params.items()}
    diagonal |= problem.layout.unflatten(metric)
    parts = {OWN: params, ANCHOR: params, METRIC: diagonal}
    state = {prefix + name: value for prefix, part in parts.items() for name, value in part.items()}
    anchored = ProximalObjective(
        Anchored(objective.network),
        objective.likelihood,
        objective.regulariser,
        objective.regulariser_weight,
        parameters=[OWN + name for name in objective.names],
        params=member(state, 0),
        bregman=bregman,
    )
    # Bregman divergences have the curvature of the losses, the w_j of the removal among them.
    return StackedProblem(
        anchored,
        state | buffers,
        problem.batch,
        problem.weights,
        own_data=problem.own_data,
        linear=problem.linear,
        metric=metric,
    )


def damping_metric(members: Members, damping: float | Damping) -> Float[Tensor, "E P"]:
    """The diagonal D where each member stands; a number is meant in the parameters' own metric.

    Raises:
        ValueError: If the damping is negative.
    """
    chosen = as_damping(members.objective, damping)
    return torch.stack([chosen.diagonal(one) for one in members])


@dataclass(frozen=True)
class Proximal(RetrainingProtocol):
    """The minimum of the objective plus 1/2 ||theta - theta_hat||^2 in the damping's metric.

    Levenberg-Marquardt with dense Hessians where they cost little, L-BFGS refit by refit where not, see `minimise`.

    Attributes:
        damping: D: a number delta in the parameters' own metric (the identity, or for variational parameters the Fisher
            information of q), or a `Damping`, evaluated where each fit stands.
        tolerance: Norm of the gradient of the proximal objective at which a refit is done.
    """

    damping: float | Damping
    tolerance: float = 1e-8
    name = "proximal"
    bregman: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_damping(self.damping)
        check_at_least(0, tolerance=self.tolerance)

    def refit(
        self, trained: Trained, train: Dataset, removed: Removals | Int[Tensor, "*E k"], *, progress: bool = False
    ) -> Refits:
        """As `RetrainingProtocol.refit`; refits that did not reach the tolerance are marked, not hidden."""
        reduction = reduce(trained, train)
        objective, metric = reduction.problem.objective, damping_metric(reduction.problem, self.damping)

        def solve(problem: StackedProblem, rows: Tensor, positions: Tensor | None) -> NewtonResult:
            own = repeated(metric[rows], len(problem.start) // len(rows))
            held = held_problem(objective, problem, own, bregman=self.bregman)
            result = from_controls(held, len(rows), positions, self.tolerance)
            return replace(result, free=part_of(result.free, OWN))

        removals = as_removals(removed, len(reduction.members))
        return refits_in_turns(reduction, removals, solve, progress=progress)


@dataclass(frozen=True)
class ProximalBregman(Proximal):
    """The proximal Bregman response function, what damped Gauss-Newton influence linearises (Bae et al. 2022)."""

    name = "pbrf"
    bregman: ClassVar[bool] = True
