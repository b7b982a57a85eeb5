"""The data of the studies of groups: Gaussian classes and Gaussian blobs."""

from __future__ import annotations

import numpy as np
import torch

from bayes_influence.data.dataset import Dataset, Split
from bayes_influence.data.standardisation import standardise

FEATURES = 5
"""Of both synthetic sets, as in the paper."""

SEPARATION = 2.0
"""Distance of the two classes' means in standard deviations: one example in six lies on the other's side."""

BLOB_SPREAD = 1.5
"""Standard deviation of the blobs' centres along each feature, in standard deviations of a blob."""


def gaussian_classes(train: int, test: int, seed: int) -> Split:
    """Two classes of unit covariance whose means lie `SEPARATION` apart along a random direction."""
    generator = np.random.default_rng(seed)
    direction = generator.normal(size=FEATURES)
    centre = 0.5 * SEPARATION * direction / np.linalg.norm(direction)
    return _drawn("Gaussian classes", np.stack([-centre, centre]), train, test, generator)


def gaussian_blobs(train: int, test: int, seed: int) -> Split:
    """Four isotropic blobs, a class each, around centres drawn with `BLOB_SPREAD`."""
    generator = np.random.default_rng(seed)
    return _drawn("Gaussian blobs", generator.normal(scale=BLOB_SPREAD, size=(4, FEATURES)), train, test, generator)


def _drawn(name: str, centres: np.ndarray, train: int, test: int, generator: np.random.Generator) -> Split:
    classes = generator.integers(len(centres), size=train + test)
    inputs = torch.from_numpy(centres[classes] + generator.normal(size=(train + test, centres.shape[1])))
    whole = Dataset(
        inputs,
        torch.from_numpy(classes),
        torch.arange(train + test),
        name=name,
        class_names=tuple(str(index) for index in range(len(centres))),
    )
    return Split(*standardise(whole.select(range(train)), whole.select(range(train, train + test))))
