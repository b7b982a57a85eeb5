"""How rough the map from an example's weight to the trained network is: one training recipe, one seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bayes_influence.data.dataset import Dataset, Split
from bayes_influence.data.images import IMAGE_SETS
from bayes_influence.data.tables import hold_out, load_table
from bayes_influence.evaluation.statistics import pearson, spearman
from bayes_influence.experiments.comparison.description import scored
from bayes_influence.experiments.papers.scaled import ScaledCell
from bayes_influence.experiments.papers.small_images import SmallImageScale, SmallImageStudy
from bayes_influence.experiments.store.cells import CellResult
from bayes_influence.influence.influence import Influence
from bayes_influence.models.activations import activation_module
from bayes_influence.models.initialisation import initial_state
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay
from bayes_influence.training.minibatch import Trained, train_minibatches
from bayes_influence.training.minibatch_schedule import MinibatchSchedule
from bayes_influence.training.optimisers import SGD
from bayes_influence.training.schedules import SWA

STEPS = (1e-7, 1e-5, 1e-3, 1.0)
"""How much of an example's weight is taken away; 1 removes it."""

SLOPE_STEP = 1e-5
"""The step at which the map's own slope predicts what dropping a group does."""

SHARES = (0.01, 0.05)
"""Of the training examples that are dropped together."""

RATE = 0.3
"""Learning rate x examples in a batch of `BATCH` / (1 - momentum): the same motion per example in every recipe."""

BATCH = 50


@dataclass(frozen=True)
class Recipe:
    """How a perceptron is trained by stochastic gradient descent.

    Attributes:
        activation: Of its hidden units.
        batch: Examples in a batch.
        momentum: Of the steps.
        decay: Of the learning rate, see `MinibatchSchedule`.
        weight_decay: lambda in (lambda/2) ||theta||^2.
        averaged: Whether the last quarter's iterates are averaged (SWA).
    """

    activation: str = "relu"
    batch: int = BATCH
    momentum: float = 0.9
    decay: str = "constant"
    weight_decay: float = 0.0
    averaged: bool = False

    @property
    def rate(self) -> float:
        """The learning rate at its highest: larger batches and less momentum take longer steps."""
        return RATE * (1 - self.momentum) * self.batch / BATCH

    def schedule(self, epochs: int) -> MinibatchSchedule:
        """Steps and learning rates."""
        return MinibatchSchedule(epochs, self.batch, self.rate, SGD(self.momentum), self.decay)

    @property
    def averaging(self) -> SWA | None:
        """How iterates are averaged."""
        return SWA(learning_rate=self.rate) if self.averaged else None


RECIPES = {
    "base": Recipe(),
    "selu": Recipe(activation="selu"),
    "tanh": Recipe(activation="tanh"),
    "gelu": Recipe(activation="gelu"),
    "batch-250": Recipe(batch=250),
    "momentum-0": Recipe(momentum=0.0),
    "cosine": Recipe(decay="cosine"),
    "weight-decay": Recipe(weight_decay=2e-3),
    "swa": Recipe(averaged=True),
    "best": Recipe(activation="tanh", batch=250, decay="cosine", weight_decay=2e-3),
    "best-relu": Recipe(batch=250, decay="cosine", weight_decay=2e-3),
}
"""By name: the base (ReLU, momentum .9, constant rate), one factor changed at a time, all that are said to help, and
these without the activation."""


@dataclass(frozen=True, kw_only=True)
class RecipeScale(SmallImageScale):
    """As `SmallImageScale`.

    Attributes:
        dataset: "digits", of scikit-learn, or "mnist".
        train: Training images.
        test: Test images.
        epochs: Passes.
        examples: Examples whose weights are varied one at a time.
        groups: Random groups that are dropped, of every share.
        widths: Units of the two hidden layers.
    """

    dataset: str
    train: int
    test: int
    epochs: int
    examples: int
    groups: int
    widths: tuple[int, ...]


@dataclass(frozen=True)
class RecipeStudy(SmallImageStudy):
    """The slope of test losses in the weights of examples, and what it predicts, by training recipe.

    Attributes:
        scale: "quick", "medium" or "full": how large it is where the next options do not say.
        recipes: Keys of `RECIPES`; all when not given.
        train: Training images; the scale's when not given.
        epochs: Passes; the scale's when not given.
        examples: Examples whose weights are varied one at a time; the scale's when not given.
        groups: Random groups that are dropped, of every share; the scale's when not given.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    recipes: tuple[str, ...] = ()
    train: int | None = None
    epochs: int | None = None
    examples: int | None = None
    groups: int | None = None

    NAME: ClassVar[str] = "training-recipe"
    FULL_MINUTES: ClassVar[float] = 560
    SCALES: ClassVar[Mapping[str, Any]] = {
        "quick": RecipeScale(
            repeats=2, side=28, dataset="digits", train=300, test=100, epochs=20, examples=2, groups=4, widths=(16, 8)
        ),
        "medium": RecipeScale(
            repeats=3, side=7, dataset="mnist", train=1000, test=200, epochs=30, examples=6, groups=12, widths=(32, 16)
        ),
        "full": RecipeScale(
            repeats=3,
            side=28,
            dataset="mnist",
            train=5000,
            test=500,
            epochs=30,
            examples=8,
            groups=20,
            widths=(128, 64),
        ),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(train=100, epochs=4, examples=1, groups=3)
        unknown = [name for name in self.recipes if name not in RECIPES]
        if unknown:
            raise ValueError(f"unknown recipe {unknown[0]!r}; known: {', '.join(RECIPES)}")
        if self.size.examples > self.size.train:
            raise ValueError(f"there are {self.size.train} training images, got examples={self.size.examples}")

    @property
    def parts(self) -> Sequence[str]:
        """A recipe each."""
        return self.recipes or tuple(RECIPES)

    @property
    def image_sets(self) -> tuple[str, ...]:
        """None where images are those of scikit-learn."""
        return (self.size.dataset,) if self.size.dataset in IMAGE_SETS else ()

    def configuration(self) -> dict[str, Any]:
        """As `ScaledStudy.configuration`; recipes can be added."""
        return {name: value for name, value in super().configuration().items() if name != "recipes"}

    def split(self, seed: int) -> Split:
        """Training and test images, standardised on the former."""
        size = self.size
        if size.dataset in self.image_sets:
            raw = self.images(seed, train=size.train, test=size.test, name=size.dataset)
            mean, deviation = raw.train.inputs.mean(), raw.train.inputs.std()
            parts = [part.with_inputs((part.inputs - mean) / deviation) for part in (raw.train, raw.test)]
            return Split(*parts)
        whole = hold_out(load_table(size.dataset), 0.3, seed)
        return Split(whole.train.select(range(size.train)), whole.test.select(range(size.test)))


def perceptron(n_inputs: int, n_outputs: int, widths: Sequence[int], activation: str) -> nn.Module:
    """Linear layers with one activation between them, from the global generator."""
    sizes = [n_inputs, *widths]
    modules: list[nn.Module] = []
    for before, after in pairwise(sizes):
        modules += [nn.Linear(before, after), activation_module(activation)]
    return nn.Sequential(*modules, nn.Linear(sizes[-1], n_outputs))


def trained_on(recipe: Recipe, study: RecipeStudy, train: Dataset, weights: Float[Tensor, "E n"], seed: int) -> Trained:
    """Networks of one recipe and seed, each on weights of its own: initialisation and batches are the same for all."""
    build = partial(perceptron, train.inputs.shape[1], train.n_classes, study.size.widths, recipe.activation)
    first, _ = initial_state(build, [seed], dtype=train.inputs.dtype)
    objective = Objective(build().to(train.inputs.dtype), CrossEntropy(), WeightDecay(1.0), recipe.weight_decay)
    start = {name: value.expand(len(weights), *value.shape[1:]) for name, value in first.items()}
    return train_minibatches(
        objective,
        start,
        train,
        recipe.schedule(study.size.epochs),
        [seed] * len(weights),
        averaging=recipe.averaging,
        data_weights=weights,
    )


@dataclass(frozen=True, eq=False)
class Drawn:
    """What loses weight in a study's cell.

    Attributes:
        examples: Positions, one at a time.
        groups: Positions that go together, by share.
    """

    examples: Int[Tensor, " m"]
    groups: dict[float, list[Tensor]]

    @classmethod
    def of(cls, study: RecipeStudy, n: int, seed: int) -> Drawn:
        """The same for every recipe of a seed."""
        generator = torch.Generator().manual_seed(seed)
        examples = torch.randperm(n, generator=generator)[: study.size.examples]
        groups = {
            share: [
                torch.randperm(n, generator=generator)[: max(1, round(share * n))] for _ in range(study.size.groups)
            ]
            for share in SHARES
        }
        return cls(examples, groups)

    def changes(self) -> list[tuple[Tensor, float]]:
        """What is taken how much of the weight, in the order of the networks after the control."""
        single = [(example.unsqueeze(0), step) for step in STEPS for example in self.examples]
        dropped = [(group, step) for step in (SLOPE_STEP, 1.0) for groups in self.groups.values() for group in groups]
        return single + dropped

    def weights(self, n: int) -> Float[Tensor, "E n"]:
        """Those of the control, 1, and of every change."""
        changes = self.changes()
        weights = torch.ones(len(changes) + 1, n, dtype=torch.float64)
        for row, (positions, step) in zip(weights[1:], changes, strict=True):
            row[positions] -= step
        return weights

    def slopes(self, losses: Float[Tensor, "E t"]) -> tuple[Float[Tensor, "s m t"], dict[float, Tensor]]:
        """Changes of the test losses per weight taken away: of single examples by step, of groups by share.

        Args:
            losses: Of every network, the control first.

        Returns:
            (s, m, t), and by share (2, g, t): the slope at `SLOPE_STEP`, and what dropping the group did.
        """
        steps = torch.tensor([step for _, step in self.changes()], dtype=losses.dtype)
        moved = (losses[1:] - losses[:1]) / steps.unsqueeze(1)
        count = len(STEPS) * len(self.examples)
        singles = moved[:count].unflatten(0, (len(STEPS), -1))
        each = moved[count:].unflatten(0, (2, len(self.groups), -1))
        return singles, {share: each[:, index] for index, share in enumerate(self.groups)}


def measure_recipe(cell: ScaledCell) -> CellResult:
    """Trains one recipe from one seed on every weighting, and says how well slopes agree and predict.

    Returns:
        Tables `slopes` (a row per pair of steps), `drops` (a row per share and prediction) and `networks` (one row).
    """
    study, recipe = cell.study, RECIPES[cell.part]
    split = study.split(cell.seed)
    drawn = Drawn.of(study, len(split.train), cell.seed)
    trained = trained_on(recipe, study, split.train, drawn.weights(len(split.train)), cell.seed)
    with torch.no_grad():
        losses = torch.stack([one.losses(one.params, split.test.batch()) for one in trained])
    singles, dropped = drawn.slopes(losses)
    control = trained.at(0)
    scores = Influence(control, split.train, curvature="ekfac").on_loss(split.test).removal
    keys = {"recipe": cell.part, "seed": cell.seed}
    drops = []
    for share, (slope, true) in dropped.items():
        summed = torch.stack([scores[:, group].sum(1) for group in drawn.groups[share]])
        for name, predicted in (("slope", slope), ("influence", summed.to(true))):
            drops.append(keys | {"share": share, "prediction": name} | over_groups(predicted, true))
    parts = {"train": split.train, "test": split.test}
    found = {f"{part}_{name}": value for part, data in parts.items() for name, value in scored(control, data).items()}
    return CellResult(
        tables={
            "slopes": pd.DataFrame([keys | row for row in slope_agreement(singles)]),
            "drops": pd.DataFrame(drops),
            "networks": pd.DataFrame([keys | found]),
        }
    )


def slope_agreement(slopes: Float[Tensor, "s m t"]) -> list[dict[str, float]]:
    """Correlation of the slopes at one step with those at the next, over examples and test images; and first with last.

    Args:
        slopes: Of m examples and t test images at every step.
    """
    flat = slopes.flatten(1).numpy()
    pairs = [*pairwise(range(len(STEPS))), (0, len(STEPS) - 1)]
    return [
        {
            "step": STEPS[one],
            "other": STEPS[other],
            "pearson": float(pearson(flat[one], flat[other])),
            "spearman": float(spearman(flat[one], flat[other])),
        }
        for one, other in pairs
    ]


def over_groups(predicted: Float[Tensor, "g t"], true: Float[Tensor, "g t"]) -> dict[str, float]:
    """Mean over test images of the correlation over groups, those left out whose loss no group moves."""
    given = predicted.T.numpy(), true.T.numpy()
    return {name: float(np.nanmean(of(*given))) for name, of in (("pearson", pearson), ("spearman", spearman))}
