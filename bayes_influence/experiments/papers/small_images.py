"""Image sets in fewer pixels and examples, so that they can be refitted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import avg_pool2d

from bayes_influence.data.dataset import Dataset, Split
from bayes_influence.data.images import IMAGE_SETS, load_images
from bayes_influence.experiments.papers.scaled import ScaledStudy, StudyScale

PIXELS = 28
"""Of a side, of the images that are averaged down."""

IMAGES = 60_000
"""Of the training part of MNIST and of Fashion-MNIST."""


@dataclass(frozen=True, kw_only=True)
class SmallImageScale(StudyScale):
    """As `StudyScale`.

    Attributes:
        side: Pixels a side.
    """

    side: int


@dataclass(frozen=True)
class SmallImageStudy(ScaledStudy):
    """A study on images in fewer pixels; its scales are `SmallImageScale`s.

    Attributes:
        side: Pixels a side, a divisor of 28; the scale's when not given.
        data_folder: Where image sets are kept.
    """

    side: int | None = None
    data_folder: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(side=1)
        if PIXELS % self.size.side:
            raise ValueError(f"side must divide 28, the pixels of an image's side, got {self.side}; take 14 or 7")
        train = getattr(self.size, "train", 0)
        if train > IMAGES:
            raise ValueError(f"train must be at most {IMAGES}, the training images of a set, got {train}")

    @property
    def image_sets(self) -> tuple[str, ...]:
        """The names of those that the study takes."""
        return ("mnist",)

    def fetch(self) -> None:
        """See `ScaledStudy.fetch`."""
        for name in self.image_sets:
            IMAGE_SETS[name].source.files_in(self.data_folder)

    def images(self, seed: int, *, train: int, test: int, name: str = "mnist", flat: bool = True) -> Split:
        """Images of the study's size and folder, see `small_images`.

        Args:
            seed: Of the choice of the training images.
            train: Training images.
            test: Test images.
            name: Of the image set.
            flat: Whether images are vectors.
        """
        return small_images(name, train, test, self.size.side, seed, self.data_folder, flat=flat)


@dataclass(frozen=True, kw_only=True)
class RemovalScale(SmallImageScale):
    """As `SmallImageScale`.

    Attributes:
        train: Training images.
        removals: Images removed one at a time.
    """

    train: int
    removals: int


@dataclass(frozen=True)
class RemovalStudy(SmallImageStudy):
    """A study that removes images one at a time; its scales are `RemovalScale`s.

    Attributes:
        train: Training images; the scale's when not given.
        removals: Images of largest |influence|, removed one at a time; the scale's when not given.
    """

    train: int | None = None
    removals: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(removals=3)
        if self.size.removals > self.size.train:
            raise ValueError(f"only {self.size.train} images can be removed one at a time, got {self.size.removals}")


def small_images(
    name: str, train: int, test: int, side: int, seed: int, folder: str | None = None, *, flat: bool = True
) -> Split:
    """Images of 28 x 28 averaged down to side x side pixels: the first test images, a random training part.

    Args:
        name: Of the image set, "mnist" say.
        train: Training images.
        test: Test images.
        side: Pixels a side, a divisor of 28.
        seed: Of the choice of the training images.
        folder: Where image sets are kept.
        flat: Whether images are vectors, else they are (1, side, side).

    Raises:
        ValueError: If the set has fewer training images.
    """
    whole = load_images(name, folder, standardised=False, dtype=torch.float64)
    if train > len(whole.train):
        raise ValueError(f"{name} has {len(whole.train)} training images, got train={train}; take fewer")
    chosen = np.random.default_rng(seed).choice(len(whole.train), train, replace=False)
    parts = (
        whole.train.select(torch.from_numpy(np.sort(chosen))),
        whole.test.select(range(min(test, len(whole.test)))),
    )
    small = [part.with_inputs(avg_pool2d(part.inputs, PIXELS // side)) for part in parts]
    return Split(*(part.with_inputs(part.inputs.flatten(1)) if flat else part for part in small))


def of_pair(data: Dataset, pair: tuple[int, int]) -> Dataset:
    """The images of two classes, numbered 0 and 1."""
    chosen = data.select(((data.targets == pair[0]) | (data.targets == pair[1])).nonzero()[:, 0])
    names = tuple(data.class_names[number] for number in pair)
    return Dataset(chosen.inputs, (chosen.targets == pair[1]).long(), chosen.ids, data.name, class_names=names)
