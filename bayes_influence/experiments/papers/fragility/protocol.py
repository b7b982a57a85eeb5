"""The pipeline of the Iris study: train, rank, estimate, refit, compare, each step as the choices say."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import vmap

from bayes_influence.curvature.errors import IndefiniteCurvatureError
from bayes_influence.curvature.spectrum.power_iteration import power_iteration_pyhessian
from bayes_influence.data.dataset import Dataset, Split
from bayes_influence.evaluation.agreement import agreement
from bayes_influence.experiments.comparison.study import Study
from bayes_influence.experiments.papers.fragility.choices import AS_PUBLISHED, CORRECTED, Choices
from bayes_influence.experiments.papers.fragility.networks import Networks, dtype_of, fit_networks, refits_exactly
from bayes_influence.experiments.papers.fragility.published_bayes import ESTIMATE_ALPHA, SoftmaxTwice, TrainedLoss
from bayes_influence.experiments.papers.fragility.published_code import (
    drops_bias,
    plain_inverse_effects,
    weight_only,
    without_regulariser,
)
from bayes_influence.influence.influence import Influence
from bayes_influence.moments.convert import to_deterministic
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.reweighting import Removals, largest_losses
from bayes_influence.retraining.minimum import Minimum
from bayes_influence.retraining.protocol import RetrainingProtocol
from bayes_influence.retraining.refits import Refits, losses_after
from bayes_influence.retraining.warm import Warm
from bayes_influence.training.schedules import Plateau

REFIT_RATE = 1e-3
"""Learning rate of the refits by training, as published."""

MOST_POINTS = max(CORRECTED.points, AS_PUBLISHED.points)
"""Examples removed by any mode."""


@dataclass(frozen=True, eq=False)
class Truths:
    """What removals did.

    Attributes:
        removed: (E, k) ids, by the size of their loss.
        losses: (E, k+1) test loss under the control and under every refit.
        before: (E,) test loss at the fit.
    """

    removed: Int[Tensor, "E k"]
    losses: Float[Tensor, "E k_plus_1"]
    before: Float[Tensor, " E"]

    def changes(self, choices: Choices) -> Float[Tensor, "E k"]:
        """Effects of the removals: differences to the control, or to the fit."""
        base = self.losses[:, 0] if choices.control else self.before
        return (self.losses[:, 1:] - base.unsqueeze(1))[:, : choices.points]

    @property
    def relative_drift(self) -> Float[Tensor, " E"]:
        """How far the control moved the loss, over the median effect against it."""
        typical = (self.losses[:, 1:] - self.losses[:, :1]).abs().quantile(0.5, dim=1)
        return (self.losses[:, 0] - self.before).abs() / typical


@dataclass(frozen=True, eq=False)
class Measured:
    """What a network size came to.

    Attributes:
        results: One row per scheme and seed.
        differences: One row per removed example as well: estimated and true change of the test loss.
    """

    results: pd.DataFrame
    differences: pd.DataFrame


@dataclass(eq=False)
class Pipeline:
    """One network size of the Iris study under any choices; what two choices share is computed once.

    Attributes:
        study: Sizes, seeds, schemes and lengths, its test example resolved.
        most_points: Examples that are refitted; choices of fewer points take the first of them.
        progress: Whether to show progress bars.
    """

    study: Study
    most_points: int = MOST_POINTS
    progress: bool = False
    _fitted: dict[tuple[object, ...], list[Networks]] = field(default_factory=dict, repr=False)
    _truths: dict[tuple[object, ...], Truths] = field(default_factory=dict, repr=False)

    def measure(self, choices: Choices) -> Measured:
        """Every scheme and seed: agreement of estimates with refits, and the spectrum."""
        rows, differences = [], []
        for networks in self.networks(choices):
            truths = self.truths(networks, choices)
            changes, drift = truths.changes(choices), truths.relative_drift
            for row, seed in enumerate(self.study.seeds):
                removed = truths.removed[row, : choices.points]
                estimated = self.estimate(networks, row, choices)[self.split.train.positions(removed)]
                compared = agreement(estimated.numpy(), changes[row].double().numpy()).to_row()
                keys = {"scheme": networks.scheme, "estimator": "influence", "seed": seed}
                own = {"absolute_spearman": abs(float(compared["spearman"])), "relative_drift": float(drift[row])}
                rows.append(keys | compared | own | self._describe(networks, row, choices))
                pairs = {"example": removed, "estimated": estimated, "true": changes[row].double()}
                differences.append(pd.DataFrame(keys | {name: value.numpy() for name, value in pairs.items()}))
        return Measured(pd.DataFrame(rows), pd.concat(differences, ignore_index=True))

    @property
    def split(self) -> Split:
        """The data, in float64."""
        return self.study.split()

    def networks(self, choices: Choices) -> list[Networks]:
        """All schemes' networks as these choices train them; last iterates of averages are kept in any case."""
        key = fitted_by(choices)
        if key not in self._fitted:
            kept = replace(choices, swa_from_average=False)
            self._fitted[key] = fit_networks(self.study, kept, self.split, progress=self.progress)
        return self._fitted[key]

    def truths(self, networks: Networks, choices: Choices) -> Truths:
        """Refits of one scheme's networks without each of the examples of largest loss."""
        key = (networks.scheme, *refitted_by(choices))
        if key not in self._truths:
            self._truths[key] = self._refit(networks, choices)
        return self._truths[key]

    def _refit(self, networks: Networks, choices: Choices) -> Truths:
        dtype = dtype_of(choices)
        train, test = self.split.train.to(dtype=dtype), self.split.test.to(dtype=dtype)
        count = min(self.most_points, len(train))
        rows = range(len(networks.members))
        removed = torch.stack([largest_losses(networks.tested(row), train, count) for row in rows])
        begin = networks.members if choices.swa_from_average else networks.start
        begin = begin.taking("last-layer" if choices.last_layer_refits else "all")
        removals = Removals.one_at_a_time(removed, "fixed" if choices.fixed_mean else "renormalised")
        refits = self._retraining(networks, choices).refit(begin, train, removals, progress=self.progress)
        before = [networks.tested(row).losses(networks.tested(row).params, test.batch())[0] for row in rows]
        return Truths(removed, losses_under(refits, networks, test), torch.stack(before))

    def _retraining(self, networks: Networks, choices: Choices) -> RetrainingProtocol:
        if refits_exactly(choices) and networks.members.objective.is_regularised:
            return Minimum()
        averaging = None if choices.swa_from_average else networks.averaging
        return Warm(replace(self.study.refits, plateau=Plateau()), averaging=averaging)

    def estimate(self, networks: Networks, row: int, choices: Choices) -> Float[Tensor, " n"]:
        """Estimated removal effects of every training example on the test loss, by one network."""
        dtype = dtype_of(choices)
        train, test = self.split.train.to(dtype=dtype), self.split.test.to(dtype=dtype)
        objective = networks.linearised(row).taking("last-layer")
        if not choices.biases:
            dropped = drops_bias(networks.scheme, *self.study.sizes)
            objective = weight_only(objective, train, dropped=dropped)
        if not choices.regulariser_in_hessian:
            objective = without_regulariser(objective)
        if not choices.damped:
            return plain_inverse_effects(objective, train, test, added=networks.added)
        return damped_effects(objective, train, test)

    def _describe(self, networks: Networks, row: int, choices: Choices) -> dict[str, float]:
        train = self.split.train.to(dtype=dtype_of(choices))
        losses = networks.tested(row).losses(networks.members.at(row).params, train.batch())
        return {"train_loss": float(losses.mean()), "power_iteration": top_eigenvalue(networks, row, train)}


def fitted_by(choices: Choices) -> tuple[bool, ...]:
    """The choices that decide where networks stand; the last iterates of averages are kept beside them either way."""
    own = (choices.double_precision, choices.one_activation, choices.one_objective)
    return (*own, refits_exactly(choices))


def refitted_by(choices: Choices) -> tuple[bool, ...]:
    """The choices that decide the refits."""
    own = (choices.last_layer_refits, choices.fixed_mean, choices.swa_from_average)
    return (*fitted_by(choices), *own)


def losses_under(refits: Refits, networks: Networks, test: Dataset) -> Float[Tensor, "E k_plus_1"]:
    """Loss of the one test example under every refit, by the loss that examples are tested by."""
    if networks.likelihood is None:
        return losses_after(refits, test)[:, :, 0]
    objective = replace(refits.members.objective, likelihood=networks.likelihood)
    batch = test.batch()

    def loss(own: dict[str, Tensor], held: dict[str, Tensor]) -> Tensor:
        return objective.losses({**held, **own}, batch)[0]

    with torch.no_grad():
        return vmap(vmap(loss, (0, None)), (0, 0))(refits.params, refits.members.params)


def damped_effects(objective: Objective, train: Dataset, test: Dataset) -> Float[Tensor, " n"]:
    """Removal effects with the damping that positive definiteness needs: none where the regulariser sees to it."""
    damping: str | float = 0.0 if objective.is_regularised else "auto"
    dtype = objective.dtype
    try:
        scores = Influence(objective, train, damping=damping, dtype=dtype).on_loss(test)
    except IndefiniteCurvatureError:
        scores = Influence(objective, train, damping="auto", dtype=dtype).on_loss(test)
    return scores.removal[0].double()


def top_eigenvalue(networks: Networks, row: int, train: Dataset) -> float:
    """Of the loss in all parameters by pyhessian's power iteration; of the loss that the published code takes."""
    objective = networks.members.at(row)
    likelihood: Any = CrossEntropy()
    if isinstance(networks.likelihood, SoftmaxTwice):
        likelihood = _published_spectrum_loss(len(train))
    network = to_deterministic(objective.network) if objective.is_bayesian else objective.network
    return power_iteration_pyhessian(network, lambda out, target: likelihood(out, target).mean(), train.batch())


def _published_spectrum_loss(n_train: int) -> Any:
    """The estimate's loss on all examples at once, where its second term is a sum over them."""
    trained = TrainedLoss(n_train)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        alpha = torch.full_like(outputs[..., -1:], ESTIMATE_ALPHA)
        return trained(torch.cat([outputs[..., :-1], alpha], dim=-1), targets)

    return loss
