"""Refits that are held near the fit: the proximal objective, and the proximal Bregman response function (PBRF).

Bae et al. 2022 (arXiv 2209.05364) ask what influence functions answer for a network that is no minimum: the PBRF.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call, jvp

from bayes_influence.curvature.cost import DENSE_SIZE
from bayes_influence.curvature.damping import Damping, IdentityDamping
from bayes_influence.data.dataset import Batch, Dataset
from bayes_influence.objectives.members import member
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import Params
from bayes_influence.objectives.reweighting import Removals, as_removals
from bayes_influence.retraining.lbfgs import minimise_lbfgs
from bayes_influence.retraining.minimum import from_controls, refits_in_turns, removal_problem
from bayes_influence.retraining.problem import RefitProblem, refit_problem
from bayes_influence.retraining.refits import Refits
from bayes_influence.torch_internals import tree_map
from bayes_influence.training.fits import Fits
from bayes_influence.training.newton import NewtonResult, minimise_newton

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

    def losses(self, params: Params, batch: Batch) -> Float[Tensor, " B"]:
        """Per-example losses l_i of the network itself, as they were before it was anchored."""
        return self.losses_of(self._outputs(_part(params, OWN), batch.inputs), batch)

    def value(
        self,
        params: Params,
        batch: Batch,
        data_weights: Float[Tensor, " B"] | None = None,
        regulariser_weight: float | Tensor | None = None,
    ) -> Float[Tensor, ""]:
        """Q over one batch, of which all constants in theta are left out."""
        own, anchor, metric = (_part(params, part) for part in (OWN, ANCHOR, METRIC))
        strength = self.regulariser_weight if regulariser_weight is None else regulariser_weight
        outputs = self._outputs(own, batch.inputs)
        losses = self.losses_of(outputs, batch)
        weighted = losses if data_weights is None else data_weights * losses
        # jvp wants the tangents in the order of the primals, which is not always that of `own`.
        step = {name: own[name] - value for name, value in anchor.items()}
        pull = torch.stack([(metric[name] * step[name].square()).sum() for name in own]).sum()
        value = weighted.mean() + strength * self.regulariser(own) + 0.5 * pull
        if not self.bregman:
            return value
        held = self._outputs(anchor, batch.inputs)
        apart = tree_map(torch.sub, outputs, held)
        slopes = jvp(lambda values: self.losses_of(values, batch), (held,), (apart,))[1]
        slope = jvp(self.regulariser, (anchor,), (step,))[1]
        return value - slopes.mean() - strength * slope

    def _outputs(self, params: Params, inputs: Any) -> Any:
        return functional_call(self.network.get_submodule(OWN.rstrip(".")), params, (inputs,))


def _part(params: Params, prefix: str) -> Params:
    return {name.removeprefix(prefix): value for name, value in params.items() if name.startswith(prefix)}


def proximal_problem(
    objective: Objective, problem: RefitProblem, metric: Float[Tensor, "M P"], *, bregman: bool
) -> RefitProblem:
    """The members of a problem, each held where it starts.

    Args:
        objective: What the problem minimises.
        problem: Its members, their starting points the anchors.
        metric: Diagonals D, laid out as the objective's selected parameters.
        bregman: Whether the losses become Bregman divergences (PBRF).
    """
    diagonal = {name: torch.zeros_like(value) for name, value in problem.params.items()}
    diagonal |= problem.layout.unflatten(metric)
    parts = {OWN: problem.params, ANCHOR: problem.params, METRIC: diagonal}
    params = {prefix + name: value for prefix, part in parts.items() for name, value in part.items()}
    anchored = ProximalObjective(
        Anchored(objective.network),
        objective.likelihood,
        objective.regulariser,
        objective.regulariser_weight,
        parameters=[OWN + name for name in objective.names],
        params=member(params, 0),
        bregman=bregman,
    )
    # Bregman divergences have the curvature of the losses, the w_j of the removal among them.
    return RefitProblem(
        anchored,
        params,
        problem.batch,
        problem.weights,
        own_data=problem.own_data,
        linear=problem.linear,
        metric=metric,
    )


def proximal_refits(
    fits: Fits,
    train: Dataset,
    removed: Removals | Int[Tensor, "S k"],
    damping: float | Damping,
    *,
    bregman: bool,
    tolerance: float = 1e-8,
    progress: bool = False,
) -> Refits:
    """Minimises the proximal objective, or the PBRF, without each group, from where the fit stands.

    Levenberg-Marquardt with dense Hessians up to `DENSE_SIZE` parameters, L-BFGS refit by refit above.

    Args:
        fits: Trained networks, S of them; they need not have converged.
        train: Their training examples.
        removed: What to remove, or ids (S, k) to remove one at a time.
        damping: D: a number delta for delta times the identity, or a `Damping`, evaluated where each fit stands.
        bregman: Whether to minimise the PBRF, of which damped Gauss-Newton influence is the linearisation.
        tolerance: Norm of the gradient of the proximal objective at which a refit is done.
        progress: Whether to show a progress bar over seeds.

    Returns:
        The refits; those that did not reach the tolerance are marked, not hidden.

    Raises:
        ValueError: If the damping is negative.
    """
    removals = as_removals(removed)
    objective, whole = refit_problem(fits.objective, fits.params, train)
    metric = damping_metric(objective, whole, damping)
    minimise = minimise_newton if whole.layout.total <= DENSE_SIZE else minimise_lbfgs

    def turn(rows: Tensor, weights: Tensor) -> NewtonResult:
        times = weights.shape[1]
        own = metric[rows].repeat_interleave(times, dim=0)
        problem = proximal_problem(objective, removal_problem(objective, whole, rows, weights), own, bregman=bregman)
        if problem.linear is not None and minimise is minimise_newton:
            positions = removals.of_seeds(rows.tolist()).positions(train) if removals.single else None
            result = from_controls(problem, times, positions, tolerance)
        else:
            result = minimise(problem, tolerance=tolerance)
        return replace(result, params=_part(result.params, OWN))

    return refits_in_turns(objective, whole, train, removals, turn, progress=progress)


def damping_metric(objective: Objective, problem: RefitProblem, damping: float | Damping) -> Float[Tensor, "M P"]:
    """The diagonal D where each member starts.

    Raises:
        ValueError: If the damping is negative.
    """
    chosen = IdentityDamping(damping) if isinstance(damping, int | float) else damping
    members = range(len(problem.start))
    return torch.stack([chosen.diagonal(objective.at(member(problem.params, index))) for index in members])


def linear_response(
    fits: Fits, train: Dataset, removed: Removals | Int[Tensor, "S k"], damping: float | Damping
) -> Refits:
    """Theta_hat - (G + s grad^2 R + D)^-1 (1/n) sum_i (w_i - 1) g_i: one step of damped Gauss-Newton influence.

    The linearisation of the PBRF in the data weights, and for a single example what influence predicts,
    theta_hat + (1/n) (G + D)^-1 g_i, solved directly from the PBRF's own Hessian. Its gradient norms are those of the
    PBRF where the step ends: what the linearisation neglects.
    """
    removals = as_removals(removed)
    objective, whole = refit_problem(fits.objective, fits.params, train)
    metric = damping_metric(objective, whole, damping)

    def turn(rows: Tensor, weights: Tensor) -> NewtonResult:
        times = weights.shape[1]
        problem = removal_problem(objective, whole, rows, weights)
        held = proximal_problem(objective, problem, metric[rows].repeat_interleave(times, dim=0), bregman=True)
        everyone = torch.arange(len(held.start), device=held.start.device)
        gradients, _ = held.gradients(held.start, everyone)
        controls = everyone[::times]
        factor = torch.linalg.cholesky(held.hessians(held.start[controls], controls))
        steps = torch.cholesky_solve(gradients.unflatten(0, (-1, times)).mT, factor).mT.flatten(0, 1)
        ends = held.start - steps
        left, values = held.gradients(ends, everyone)
        norms = left.norm(dim=1)
        params = _part({**held.params, **held.layout.unflatten(ends)}, OWN)
        return NewtonResult(params, values, norms, torch.ones_like(norms, dtype=torch.bool), 1)

    return refits_in_turns(objective, whole, train, removals, turn)
