"""A folder of images by class, of the user's own: one sub-folder per class, read when needed."""

from __future__ import annotations

import logging
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from bayes_influence.data.dataset import Dataset, Split
from bayes_influence.data.files import named
from bayes_influence.data.known_set import KnownSet
from bayes_influence.data.own_rows import usual_epochs
from bayes_influence.data.standardisation import standardise
from bayes_influence.data.stream import Stream
from bayes_influence.data.streamed import StreamedDataset
from bayes_influence.data.tables import SPLIT_SEED, random_split

logger = logging.getLogger(__name__)

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")

GREY = ("1", "L")
"""Modes, as Pillow calls them, of images without colour."""

BATCH = 64
"""Images read at a time for their means and deviations."""


TO_DO = "replace the file, or remove it from the folder"
"""With an image that cannot be read."""


class ImageFiles(TorchDataset[Any]):
    """Images of one size with their class indices.

    Args:
        paths: Of the images.
        labels: Their class indices.
        grey: Whether they have one channel rather than three.
        means: Of every channel, subtracted.
        scales: Of every channel, divided by.
    """

    def __init__(
        self,
        paths: list[Path],
        labels: list[int],
        grey: bool,
        means: Tensor | None = None,
        scales: Tensor | None = None,
    ) -> None:
        self.paths, self.labels, self.grey, self.means, self.scales = paths, labels, grey, means, scales

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "channels height width"], int]:
        from PIL import Image

        path = self.paths[index]
        try:
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("L" if self.grey else "RGB"), dtype=np.float32) / 255
        except (OSError, SyntaxError) as error:  # the latter is Pillow's for broken PNG files
            raise OSError(f"{path} ({error}); {TO_DO}") from error
        found = torch.from_numpy(pixels[None] if self.grey else pixels.transpose(2, 0, 1).copy())
        if self.means is not None and self.scales is not None:
            found = (found - self.means[:, None, None]) / self.scales[:, None, None]
        return found, self.labels[index]


@dataclass(frozen=True, kw_only=True)
class OwnImages(KnownSet):
    """Images in one sub-folder per class.

    Attributes:
        name: What they are called.
        paths: Of the images, class by class, in the order of their names: an image's place in it is its id.
        labels: Their class indices.
        class_names: Names of the sub-folders.
        grey: Whether all are without colour.
    """

    name: str
    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]
    grey: bool

    @classmethod
    def read(cls, folder: Path) -> OwnImages:
        """The images in a folder; their sizes and modes are read, nothing else.

        Warns where images with colour are among grey ones, which then all get three channels.

        Raises:
            ValueError: If there are not two classes at least, with two images each, or the images differ in size.
        """
        classes = sorted(item for item in folder.iterdir() if item.is_dir() and not item.name.startswith("."))
        found = [(path, label) for label, part in enumerate(classes) for path in _images(part)]
        for label, part in enumerate(classes):
            count = sum(own == label for _, own in found)
            if count < 2:
                raise ValueError(
                    f"{folder}: the class {part.name} has {count} image{'s' * (count != 1)} ({', '.join(IMAGES)}), at "
                    "least 2 are needed to leave one out; add images or take the folder away"
                )
        if len(classes) < 2:
            raise ValueError(
                f"{folder}: a folder of images has one sub-folder per class, two at least, got {len(classes)}"
            )
        (width, height), modes = _checked_sizes([path for path, _ in found])
        grey = set(modes.values()) <= set(GREY)
        _tell_of_colour(folder, modes)
        return cls(
            name=named(folder).name,
            paths=tuple(path for path, _ in found),
            labels=tuple(label for _, label in found),
            class_names=tuple(part.name for part in classes),
            grey=grey,
            image_shape=(1 if grey else 3, height, width),
            epochs=usual_epochs(len(found)),
            batch_size=32,
        )

    @property
    def files(self) -> tuple[str, ...]:
        """The images' paths."""
        return tuple(map(str, self.paths))

    def _streamed(self, dtype: torch.dtype, **units: Tensor) -> Dataset:
        files = ImageFiles(list(self.paths), list(self.labels), self.grey, **units)
        return StreamedDataset(Stream(files, self.name), class_names=self.class_names).to(dtype=dtype)

    def raw_split(self, dtype: torch.dtype, folder: str | os.PathLike[str] | None = None) -> Split:
        """A fifth of every class as the test part, the same ones always."""
        return self._parts(self._streamed(dtype))

    def _parts(self, whole: Dataset) -> Split:
        count = len(self.labels)
        labels = torch.tensor(self.labels)
        parts = random_split(Dataset(torch.zeros(count, 1), labels, torch.arange(count), self.name), seed=SPLIT_SEED)
        return Split(whole.select(parts.train.ids.sort().values), whole.select(parts.test.ids.sort().values))

    def split(self, dtype: torch.dtype, folder: str | os.PathLike[str] | None = None) -> Split:
        """The same, standardised by channel on the training part, which is read once for that."""
        means, scales = _channel_units(self.raw_split(torch.float64).train)
        return self._parts(self._streamed(dtype, means=means.float(), scales=scales.float()))

    def all_examples(self, dtype: torch.dtype, folder: str | os.PathLike[str] | None = None) -> Dataset:
        """All images, standardised by channel on themselves; an image's place in `paths` is its id."""
        means, scales = _channel_units(self._streamed(torch.float64))
        return self._streamed(dtype, means=means.float(), scales=scales.float())

    def standardise(self, train: Dataset, *others: Dataset) -> tuple[Dataset, ...]:
        """By channel, in memory; `split` does the same to every image where it is read."""
        return standardise(train, *others, by="channel")


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGES)


def _checked_sizes(paths: list[Path]) -> tuple[tuple[int, int], dict[Path, str]]:
    """Width and height of the images, and the mode of each.

    Raises:
        ValueError: If one is no image, or of another size than the first.
    """
    from PIL import Image, UnidentifiedImageError

    sizes, modes = [], {}
    for path in paths:
        try:
            with Image.open(path) as image:
                sizes.append(image.size)
                modes[path] = image.mode
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(f"{path} is no image that Pillow reads ({error}); {TO_DO}") from error
        if sizes[-1] != sizes[0]:
            width, height = sizes[-1]
            raise ValueError(
                f"{path} has {width} x {height} pixels, the first image ({paths[0].name}) {sizes[0][0]} x "
                f"{sizes[0][1]}: a network takes images of one size; resize or crop them"
            )
    return sizes[0], modes


def _tell_of_colour(folder: Path, modes: dict[Path, str]) -> None:
    """Warns where some images have colour and some have none."""
    coloured = [path for path, mode in modes.items() if mode not in GREY]
    if 0 < len(coloured) < len(modes):
        logger.warning(
            "%s: grey images and images with colour (%s, say) are mixed, so every image gets three channels, and the "
            "network weights for them; modes of the images, as Pillow calls them: %s. Convert all to one mode",
            folder,
            coloured[0],
            ", ".join(f"{mode} {count}" for mode, count in Counter(modes.values()).most_common()),
        )


def _channel_units(train: Dataset) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every channel; 1 for one that is constant."""
    total = squares = torch.zeros(())
    count = 0
    for batch in train.batches(BATCH):
        pixels = batch.inputs.transpose(0, 1).flatten(1)
        total, squares, count = total + pixels.sum(1), squares + pixels.square().sum(1), count + pixels.shape[1]
    mean = total / count
    deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
    return mean, torch.where(deviation < 1e-8, 1.0, deviation)
