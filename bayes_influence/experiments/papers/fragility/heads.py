"""The last layer of a trained image network on its features: what figures 2, 4 and 5 estimate and refit there."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bayes_influence.curvature.operators.hessian import Hessian, HessianOperator
from bayes_influence.data.dataset import Dataset, Split
from bayes_influence.experiments.papers.fragility.choices import Choices
from bayes_influence.experiments.papers.fragility.networks import dtype_of
from bayes_influence.experiments.papers.fragility.published_code import (
    LISSA_MINIBATCH,
    REFIT_RATE,
    lissa_ended_early,
    lissa_summed,
    positions_in_shuffled_pass,
    weight_only,
    without_regulariser,
)
from bayes_influence.influence.influence import Influence
from bayes_influence.objectives.derivatives import per_example_gradients
from bayes_influence.objectives.head import layer_path
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.reduction import reduce
from bayes_influence.objectives.reweighting import Removals, example_losses
from bayes_influence.retraining.minimum import Minimum
from bayes_influence.retraining.refits import Refits, losses_after
from bayes_influence.retraining.warm import Warm
from bayes_influence.torch_internals import tree_map
from bayes_influence.training.minimum import minimised
from bayes_influence.training.schedules import Plateau, Schedule

WORKING_RATE = 1e-3
"""Learning rate of refits by training."""

TESTS = ("max", "median")
"""Test examples: of largest loss, and of median loss."""

GRADIENTS_AT_ONCE = 2000
"""Examples whose gradients are held at a time."""


@dataclass(frozen=True, eq=False)
class Head:
    """A last layer, standing at its fit, with the features that it receives as the data.

    Attributes:
        objective: Of the layer, the regulariser inside.
        train: Features of the training examples, under their ids.
        tests: Features of all test examples.
    """

    objective: Objective
    train: Dataset
    tests: Dataset

    def test_example(self, which: str) -> Dataset:
        """The test example of largest, or of median, loss.

        Raises:
            ValueError: If `which` is none of `TESTS`.
        """
        if which not in TESTS:
            raise ValueError(f"a test example is one of {', '.join(TESTS)}, got {which!r}")
        order = torch.argsort(example_losses(self.objective, self.tests))
        return self.tests.select([int(order[-1 if which == "max" else len(order) // 2])])


def head_of(objective: Objective, split: Split, choices: Choices) -> Head:
    """The last layer of a trained network, on the CPU; at its minimum where refits are exact.

    Args:
        objective: The trained network.
        split: Its data.
        choices: Precision, exactness, and whether dropout is off while features are taken.

    Raises:
        ValueError: If the last layer does not stand for the network.
    """
    reduction = reduce(objective.taking("last-layer"), split.train)
    tests = reduction.features_of(split.test)
    if not reduction.is_head or tests is None:
        raise ValueError(f"the last layer has to stand for the network here, but {reduction.reason}")
    place: dict[str, Any] = {"dtype": dtype_of(choices), "device": "cpu"}
    layer = reduction.problem.at(0).to(**place)
    train = reduction.examples().to(**place)
    held = split.test.with_inputs(tree_map(lambda leaf: leaf[0], tests)).to(**place)
    if not choices.evaluation_mode and drops(objective):
        path = layer_path(layer.network)
        train = train.with_inputs(features_with_dropout(objective, path, split.train).to(**place))
    if choices.exact_refits and choices.double_precision:
        layer = minimised(layer, train).members.at(0)
    return Head(layer, train, held)


def drops(objective: Objective) -> bool:
    """Whether the network in training mode drops something; a Bayesian one has a moment rule for it instead."""
    modules = objective.network.modules()
    return not objective.is_bayesian and any(isinstance(one, nn.Dropout) and one.p > 0 for one in modules)


def features_with_dropout(objective: Objective, path: str, data: Dataset, seed: int = 0) -> Tensor:
    """What the layer at a path receives while dropout is on, as the published gradients have it.

    Args:
        objective: A deterministic network.
        path: Of the layer.
        data: Examples.
        seed: Of the masks.
    """
    network = copy.deepcopy(objective.network).train()
    received: list[Tensor] = []
    network.get_submodule(path).register_forward_pre_hook(lambda _, args: received.append(args[0].detach()))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for batch in data.batches(LISSA_MINIBATCH):
            network(objective.fitting(batch).inputs)
    return torch.cat(received)


def estimated_effects(head: Head, test: Dataset, choices: Choices, *, summed: bool, seed: int) -> Float[Tensor, " n"]:
    """Estimated removal effects of every training example, in the order of their positions.

    Args:
        head: The last layer.
        test: One test example.
        choices: How.
        summed: Whether the published code sums LiSSA's iterates for this network, as for the small ones.
        seed: Of minibatches and shuffles.
    """
    objective = head.objective if choices.biases else weight_only(head.objective, head.train, dropped=False)
    if not choices.regulariser_in_hessian:
        objective = without_regulariser(objective)
    if choices.solved:
        damping: str | float = 0.0 if objective.is_regularised else "auto"
        effects = Influence(objective, head.train, damping=damping, dtype=objective.dtype).on_loss(test).removal[0]
    else:
        effects = _published_effects(objective, head.train, test, summed=summed, seed=seed)
    if not choices.removal_sign and summed:
        effects = -effects
    if not choices.by_id and not summed:
        effects = positions_in_shuffled_pass(effects, torch.Generator().manual_seed(seed))
    return effects.double()


def _published_effects(objective: Objective, train: Dataset, test: Dataset, *, summed: bool, seed: int) -> Tensor:
    """LiSSA's result against every gradient, divided by n."""
    rhs = per_example_gradients(objective, objective.fitting(test.batch()))[0]
    if summed:
        solved, _ = lissa_summed(Hessian().operator(objective, train).dense(), rhs)
    else:
        operator = HessianOperator(objective, train)
        solved = lissa_ended_early(operator.product_of, len(train), rhs, seed=seed)
    parts = [
        per_example_gradients(objective, objective.fitting(part)) @ solved for part in train.batches(GRADIENTS_AT_ONCE)
    ]
    return torch.cat(parts) / len(train)


def largest_effects(effects: Float[Tensor, " n"], train: Dataset, count: int) -> Int[Tensor, " k"]:
    """Ids of the training examples with the largest |effect|, largest first."""
    return train.ids[torch.argsort(effects.abs(), descending=True, stable=True)[:count]]


def refitted(
    head: Head,
    removed: Int[Tensor, " k"],
    choices: Choices,
    epochs: int,
    *,
    slow: bool = False,
    watch: Dataset | None = None,
) -> Refits:
    """The layer without each of the examples, and once without removing anything.

    Args:
        head: The last layer.
        removed: Ids.
        choices: How; refits are exact where they are said to be, and not watched.
        epochs: Full-batch steps of refits by training.
        slow: Whether the published code's rate for this network is the one that moves nothing.
        watch: Test examples whose losses are recorded at every step.
    """
    removals = Removals.one_at_a_time(removed.unsqueeze(0), "fixed" if choices.fixed_mean else "renormalised")
    if choices.exact_refits and choices.double_precision and watch is None:
        return Minimum().refit(head.objective, head.train, removals)
    rate = REFIT_RATE if slow and not choices.working_rate else WORKING_RATE
    return Warm(Schedule(epochs, rate, Plateau()), watch=watch).refit(head.objective, head.train, removals)


def true_effects(head: Head, refits: Refits, test: Dataset, choices: Choices) -> Float[Tensor, " k"]:
    """What the removals did to the test loss, against the control or against the fit."""
    losses = losses_after(refits, test)[0, :, 0]
    if choices.control:
        return (losses[1:] - losses[0]).double()
    before = example_losses(head.objective, test)[0]
    return (losses[1:] - before).double()


def relative_drift(head: Head, refits: Refits, test: Dataset) -> float:
    """How far the control moved the loss, over the median effect against it."""
    losses = losses_after(refits, test)[0, :, 0]
    moved = losses[0] - example_losses(head.objective, test)[0]
    return float(moved.abs() / (losses[1:] - losses[0]).abs().quantile(0.5))
