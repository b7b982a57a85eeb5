"""Does it matter which parameters influence is taken in, and which of the two does retraining support?"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from bayes_influence.arguments import check_count, check_function, kind_of
from bayes_influence.data.dataset import Dataset, check_dataset
from bayes_influence.evaluation.ceiling import retraining_ceiling
from bayes_influence.evaluation.intervals import Interval
from bayes_influence.evaluation.lds import LDS, lds
from bayes_influence.evaluation.statistics import spearman
from bayes_influence.evaluation.verdict import FAIR_CORRELATION, MIN_CEILING
from bayes_influence.influence.influence import Influence
from bayes_influence.influence.scores import InfluenceScores
from bayes_influence.objectives.members import check_objective
from bayes_influence.objectives.objective import Objective

logger = logging.getLogger(__name__)

RESAMPLES = 400
"""Of every interval."""

Retrain = Callable[[Dataset, int], nn.Module]
"""Somebody's own training: of a network on some of the examples, from a seed."""


@dataclass(frozen=True, eq=False)
class ParameterSets:
    """What influence in the last layer and in all parameters say, and what retraining says of both.

    Attributes:
        last_layer: Scores in the last layer.
        every: Scores in all parameters.
        rank_agreement: (t,) Spearman between the two over the training examples, for every test example.
        last_layer_lds: How well the first predict the losses of networks retrained on subsets; None without retraining.
        every_lds: How well the second do.
        ceiling: The same of a perfect estimate, from trainings of several seeds: mean over test examples.
        difference: `every_lds` minus `last_layer_lds`, with the interval from resampling both over the same subsets and
            test examples.
    """

    last_layer: InfluenceScores
    every: InfluenceScores
    rank_agreement: Float[np.ndarray, " t"]
    last_layer_lds: LDS | None = None
    every_lds: LDS | None = None
    ceiling: float | None = None
    difference: Interval | None = None

    @property
    def disagree(self) -> bool:
        """Whether the median rank agreement is below `FAIR_CORRELATION`: they name other examples."""
        return not np.median(self.rank_agreement) >= FAIR_CORRELATION

    @property
    def supported(self) -> str | None:
        """`"all"` or `"last-layer"`, whichever retraining supports more, None where it does not tell."""
        if self.difference is None or self.ceiling is None or not self.ceiling >= MIN_CEILING:
            return None
        if self.difference.low > 0:
            return "all"
        return "last-layer" if self.difference.high < 0 else None

    @property
    def sentence(self) -> str:
        """The same in plain words."""
        words = (
            f"Influence in the last layer and in all parameters {'dis' * self.disagree}agree: median Spearman "
            f"{np.median(self.rank_agreement):.2f} over {len(self.rank_agreement)} test examples"
        )
        if self.last_layer_lds is None or self.every_lds is None or self.difference is None:
            return f"{words}; pass `retrain` to see which of them retraining supports."
        figures = (
            f"LDS {self.last_layer_lds.score.estimate:.2f} of the last layer and "
            f"{self.every_lds.score.estimate:.2f} of all parameters, where a perfect estimate reaches "
            f"{self.ceiling:.2f}; difference "
            f"{self.difference.estimate:.2f} with 95 % interval {self.difference.low:.2f} to {self.difference.high:.2f}"
        )
        if self.supported is None:
            return f"{words}. Retraining does not tell which is better ({figures}); more subsets or seeds may."
        better = "all parameters" if self.supported == "all" else "the last layer"
        return f"{words}. Retraining supports {better} ({figures})."


def compare_parameters(
    objective: Objective,
    train: Dataset,
    test: Dataset,
    retrain: Retrain | None = None,
    *,
    subsets: int = 16,
    removed: float = 0.1,
    seeds: int = 2,
    seed: int = 0,
    **options: Any,
) -> ParameterSets:
    """Influence in the last layer beside that in all parameters, and both beside retraining.

    Retraining is the user's own, from whichever start: from the initialisation (cold) or from the fit (warm). It is
    done `subsets` x `seeds` times, each without a random share of the examples, and the linear datamodelling score says
    how well each estimate predicts the mean test losses over the seeds, see `lds`. The ceiling is that of
    `retraining_ceiling`. Random shares favour neither estimate, as the examples that one of them ranks first would.

    Args:
        objective: The objective, standing at its fitted parameters.
        train: Its training examples.
        test: Test examples, whose losses are measured.
        retrain: `(examples, seed) -> network` of the same architecture, trained; nothing is retrained without.
        subsets: Shares that are left out, one at a time.
        removed: How much of the training examples is left out.
        seeds: Trainings per share, of the seeds 0, 1, ...; two are the fewest that say how far they repeat themselves.
        seed: Of the shares.
        **options: See `Influence`, of both estimates; such as `curvature="ggn"` where the Hessian of all parameters is
            indefinite.

    Raises:
        TypeError: If an argument is of another kind, or `retrain` returns no network.
        ValueError: If there are too few subsets or seeds, or a share that leaves out nothing or everything; if a
            retrained network has other parameters.
    """
    check_objective(objective, "what influence is taken of")
    check_dataset(train, "the training examples")
    check_dataset(test, "the test examples")
    check_count(subsets=subsets, seeds=seeds)
    if retrain is not None:
        check_function("retrain", retrain, "pass a function (examples, seed) -> trained network")
    left_out = round(removed * len(train))
    if subsets < 3 or seeds < 2 or not 0 < left_out < len(train):
        raise ValueError(
            f"need 3 subsets, 2 seeds and a share that leaves out some of {len(train)} examples, got "
            f"subsets={subsets}, seeds={seeds}, removed={removed}"
        )
    last, every = (
        Influence(objective.taking(parameters), train, **options).on_loss(test) for parameters in ("last-layer", "all")
    )
    found = ParameterSets(last, every, spearman(last.removal.cpu().numpy(), every.removal.cpu().numpy()))
    if found.disagree:
        logger.warning("%s", found.sentence)
    if retrain is None:
        return found
    generator = np.random.default_rng(seed)
    masks = np.ones((subsets, len(train)), dtype=bool)
    for mask in masks:
        mask[generator.choice(len(train), left_out, replace=False)] = False
    losses = _retrained_losses(objective, train, test, retrain, masks, range(seeds))
    scored = [lds(masks, -scores.removal.cpu().numpy(), losses, n_resamples=RESAMPLES) for scores in (last, every)]
    ceilings = [retraining_ceiling(losses[:, :, index], spearman).average for index in range(len(test))]
    return replace(
        found,
        last_layer_lds=scored[0],
        every_lds=scored[1],
        ceiling=float(np.nanmean(ceilings)),
        difference=_difference(masks, last, every, losses),
    )


def _difference(
    masks: Bool[np.ndarray, "m n"], last: InfluenceScores, every: InfluenceScores, losses: Float[np.ndarray, "S m t"]
) -> Interval:
    """Of the second's mean score and the first's, resampled as `lds` resamples one."""
    kept, truth = masks.T.astype(np.float64), losses.mean(axis=0).T
    of_last, of_every = (-scores.removal.cpu().numpy() @ kept for scores in (last, every))

    def difference(rows: np.ndarray, columns: np.ndarray) -> float:
        there = truth[rows, columns]
        return float(np.mean(spearman(of_every[rows, columns], there) - spearman(of_last[rows, columns], there)))

    generator, (tests, subsets) = np.random.default_rng(0), truth.shape
    drawn = [
        difference(generator.integers(tests, size=(tests, 1)), generator.integers(subsets, size=subsets))
        for _ in range(RESAMPLES)
    ]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    found = difference(np.arange(tests)[:, None], np.arange(subsets))
    return Interval(found, float(low), float(high), 0.95, tests, int(np.isnan(drawn).sum()))


def _retrained_losses(
    objective: Objective,
    train: Dataset,
    test: Dataset,
    retrain: Retrain,
    masks: Bool[np.ndarray, "m n"],
    seeds: range,
) -> Float[np.ndarray, "S m t"]:
    """Test losses after every training."""
    losses = np.empty((len(seeds), len(masks), len(test)))
    for row, seed in enumerate(seeds):
        for column, mask in enumerate(masks):
            network = retrain(train.select(torch.from_numpy(mask.nonzero()[0])), seed)
            losses[row, column] = _losses(objective, network, test).double().cpu().numpy()
    return losses


def _losses(objective: Objective, network: object, test: Dataset) -> Float[Tensor, " t"]:
    """Of a retrained network, in evaluation mode."""
    if not isinstance(network, nn.Module):
        raise TypeError(f"retrain must return the trained network, an nn.Module, got {kind_of(network)}")
    params = {name: value.detach() for name, value in network.named_parameters()}
    there = objective.at(params, {name: value.detach() for name, value in network.named_buffers()})
    with torch.no_grad():
        return torch.cat([there.losses(there.params, there.fitting(batch)) for batch in test.batches(500)])
