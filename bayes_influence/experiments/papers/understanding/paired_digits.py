"""Two classes of digits told apart by the last layer of a network whose features were learned on other digits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from bayes_influence.data.dataset import Dataset, Split
from bayes_influence.experiments.papers.small_images import IMAGES, SmallImageScale, SmallImageStudy, of_pair
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.minibatch_schedule import MinibatchSchedule
from bayes_influence.training.minimum import minimum_of
from bayes_influence.training.schemes import SCHEMES

PAIR = (4, 9)
"""Classes of the images that are told apart: those which digits are confused most."""

IMAGES_PER_PAIRED = 6
"""Digits that are looked through for one of the pair, to which a fifth of them belong."""

FEATURE_DECAY = 1e-4
"""Weight decay of the network that the features are taken of."""


@dataclass(frozen=True, kw_only=True)
class PairScale(SmallImageScale):
    """As `SmallImageScale`.

    Attributes:
        train: Training images of the pair.
        feature_images: Others, of all ten classes, on which the features are learned.
        width: Of the network.
    """

    train: int
    feature_images: int
    width: int


@dataclass(frozen=True)
class PairStudy(SmallImageStudy):
    """A study of two classes of digits; its scales are `PairScale`s.

    Attributes:
        train: Training images of the pair; the scale's when not given.
        feature_images: Others, of all ten classes, on which the features are learned; the scale's when not given.
        width: Of the network: its hidden units, or the channels of its first convolution; the scale's when not given.
    """

    train: int | None = None
    feature_images: int | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(feature_images=10, width=1)
        most = (IMAGES - self.size.feature_images) // IMAGES_PER_PAIRED
        if self.size.train > most:
            raise ValueError(
                f"train={self.size.train} images of the pair {PAIR} are more than can be drawn beside "
                f"feature_images={self.size.feature_images} of the {IMAGES} of mnist; take at most train={max(most, 0)}"
            )

    def drawn(self, seed: int, *, flat: bool = True) -> tuple[Dataset, Split]:
        """Images of all classes for the features, and others of the pair, with its test images.

        Args:
            seed: Of the choice.
            flat: Whether images are vectors.

        Raises:
            ValueError: If there are too few images of the pair.
        """
        size = self.size
        split = self.images(seed, train=size.feature_images + IMAGES_PER_PAIRED * size.train, test=10_000, flat=flat)
        order = torch.randperm(len(split.train), generator=torch.Generator().manual_seed(seed))
        others, own = split.train.select(order[: size.feature_images]), split.train.select(order[size.feature_images :])
        train = of_pair(own, PAIR)
        if len(train) < size.train:
            raise ValueError(
                f"only {len(train)} of the images are of the pair {PAIR}, got train={size.train}; take fewer"
            )
        return others, Split(train.select(range(size.train)), of_pair(split.test, PAIR))


def on_learned_features(
    make_network: Callable[[int], nn.Module], others: Dataset, train: Dataset, decay: float, seed: int
) -> Objective:
    """A network whose features were learned on other images, its last layer a logistic regression at its minimum.

    Args:
        make_network: Builds it with so many outputs.
        others: Images of all classes, for the features.
        train: Those of two classes.
        decay: Of the last layer.
        seed: Of the network, and of the order of the other images.
    """
    scheme = SCHEMES["weight-decay"].with_options(weight_decay=FEATURE_DECAY)
    schedule = MinibatchSchedule(10, 100, 0.005, decay="cosine")
    features = fit_schemes([scheme], lambda: make_network(others.n_classes), others, [seed], schedule, tolerance=None)[
        0
    ].at(0)
    objective = Objective(make_network(2).double(), CrossEntropy(), WeightDecay(decay), parameters="last-layer")
    body = {name: value for name, value in features.params.items() if name not in objective.names}
    return minimum_of(objective.at({**objective.params, **body}), train)
