"""Refits by training on a fixed schedule, from the fit (warm) or from an initialisation (cold).

For unregularised losses, whose minimum may lie at infinity, and for whole networks, which have no unique one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import vmap
from tqdm.auto import tqdm

from bayes_influence.data.dataset import Dataset
from bayes_influence.objectives.head import Head, member_batch
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import Params
from bayes_influence.objectives.reweighting import Removals, as_removals
from bayes_influence.retraining.minimum import check_seeds
from bayes_influence.retraining.problem import RefitProblem, refit_problem, stacked_features
from bayes_influence.retraining.refits import Refits, per_seed
from bayes_influence.torch_internals import tree_map
from bayes_influence.training.ensemble import TrainedEnsemble, train_ensemble
from bayes_influence.training.fits import Fits
from bayes_influence.training.schedules import Schedule


def trained_refits(
    fits: Fits,
    train: Dataset,
    removed: Removals | Int[Tensor, "S k"],
    schedule: Schedule,
    *,
    start: Params | None = None,
    averaging: bool = False,
    watch: Dataset | None = None,
    at_once: int | None = None,
    progress: bool = False,
) -> Refits:
    """Trains without each group for a fixed schedule.

    In the last layer only where that is what the fits' objective selects, otherwise in all parameters. A refit does
    not depend on which others it is trained with.

    Args:
        fits: Trained networks, S of them.
        train: Their training examples.
        removed: What to remove, or ids (S, k) to remove one at a time.
        schedule: Epochs and learning rates of the refits.
        start: Stacked parameters (S, ...) that the refits start from; the fits' own when not given. Of a last layer's
            problem only the last layer is taken from them.
        averaging: Whether a scheme that averages its iterates averages those of the refits too; otherwise refits of
            an averaged network go on from its average and end at their last iterate.
        watch: Examples whose losses are recorded before every step.
        at_once: Refits trained as one ensemble; all of them when not given, 1 for networks too large to stack.
        progress: Whether to show a progress bar.

    Raises:
        NonFiniteTrainingError: Naming scheme, seed and refit.
        ValueError: If `at_once` is not positive or the removals are for another number of seeds.
    """
    if at_once is not None and at_once < 1:
        raise ValueError(f"at_once must be at least 1 refit, got {at_once}; leave it out to train all together")
    removals = as_removals(removed)
    objective, whole = refit_problem(fits.objective, fits.params, train)
    seeds = len(whole.start)
    check_seeds(removals, seeds)
    weights = removals.data_weights(train, whole.start.dtype).flatten(0, 1)
    training = _Training(
        fits,
        objective,
        whole,
        weights,
        start={name: (start or whole.params)[name] for name in whole.params},
        schedule=schedule,
        averaging=averaging and fits.scheme.averaging is not None,
        watch=watch,
        progress=progress,
    )
    turns = torch.arange(len(weights), device=weights.device).split(at_once or len(weights))
    bar = tqdm(turns, desc="refits", unit="turn", disable=None if progress and len(turns) > 1 else True)
    trained, norms = zip(*(training.run(members) for members in bar), strict=True)
    norm = torch.cat(norms).unflatten(0, (seeds, -1))
    return Refits(
        objective=objective,
        params=per_seed({name: torch.cat([part.params[name] for part in trained]) for name in whole.params}, seeds),
        removals=removals,
        gradient_norms=norm,
        converged=torch.zeros_like(norm, dtype=torch.bool),
        watched=_watched(trained, seeds) if watch is not None else None,
    )


@dataclass(frozen=True, eq=False)
class _Training:
    """What all refits of one call share; member m is refit m % (k+1) of seed m // (k+1)."""

    fits: Fits
    objective: Objective
    whole: RefitProblem
    weights: Float[Tensor, "M n"]
    start: Params
    schedule: Schedule
    averaging: bool
    watch: Dataset | None
    progress: bool

    def run(self, members: Int[Tensor, " m"]) -> tuple[TrainedEnsemble, Float[Tensor, " m"]]:
        """The refits with these numbers, and their gradient norms."""
        refits = len(self.weights) // len(self.fits.seeds)
        rows = members // refits
        batch = tree_map(lambda leaf: leaf[rows], self.whole.batch) if self.whole.own_data else self.whole.batch
        trained = train_ensemble(
            self.objective,
            {name: value[rows] for name, value in self.start.items()},
            batch,
            self.schedule,
            data_weights=self.weights[members],
            averaged=torch.full_like(members, self.averaging, dtype=torch.bool),
            averaging=self.fits.scheme.averaging,
            own_data=self.whole.own_data,
            labels=[
                f"{self.fits.scheme.name}, seed {self.fits.seeds[index // refits]}, refit {index % refits}"
                for index in members.tolist()
            ],
            record=self._recorder(rows),
            progress=self.progress,
        )
        problem = RefitProblem(
            self.objective, trained.params, batch, self.weights[members], own_data=self.whole.own_data
        )
        gradients, _ = problem.gradients(problem.start, torch.arange(len(members), device=members.device))
        return trained, gradients.norm(dim=1)

    def _recorder(self, rows: Int[Tensor, " m"]) -> Callable[[Params], Tensor] | None:
        """Losses of the watched examples under every member."""
        if self.watch is None:
            return None
        losses = vmap(self.objective.losses, in_dims=(0, 0 if self.whole.own_data else None))
        batch = self.watch.batch()
        if isinstance(self.objective.network, Head):
            params = {name: value[rows] for name, value in self.fits.params.items()}
            features = stacked_features(self.fits.objective, params, batch.inputs)
            batch = member_batch(features, batch, len(rows))
            losses = vmap(self.objective.losses)
        return lambda params: losses(params, batch)


def _watched(trained: tuple[TrainedEnsemble, ...], seeds: int) -> Float[Tensor, "S k_plus_1 epochs t"]:
    recorded = [part.recorded.transpose(0, 1) for part in trained if part.recorded is not None]
    return torch.cat(recorded).unflatten(0, (seeds, -1))
