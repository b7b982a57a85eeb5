"""Tables on which networks know little: overlapping classes, useless columns, few rows of a class."""

from __future__ import annotations

import numpy as np
from sklearn import datasets

Table = tuple[np.ndarray, np.ndarray]
"""Inputs and classes."""

CELLS = (("symmetric", 0.05), ("symmetric", 0.1), ("symmetric", 0.2), ("pairwise", 0.1))
"""Kinds and shares of wrong labels."""


def hard_tables(usual: dict[str, Table]) -> dict[str, Table]:
    """All of them, by name.

    Args:
        usual: The tables of which twenty rows of each class are taken.
    """
    return _overlapping() | _distracted() | _shells() | _small(usual)


def _overlapping() -> dict[str, Table]:
    """Mixtures of normal classes that lie in each other."""
    sizes = [(0.5, 2, 600, 20), (0.8, 3, 600, 20), (1.0, 5, 800, 12), (0.6, 3, 300, 40), (0.8, 10, 900, 20)]
    found = {
        f"mixture-{classes}-{separation}": datasets.make_classification(
            rows,
            columns,
            n_informative=8,
            n_redundant=0,
            n_classes=classes,
            n_clusters_per_class=1 if classes > 3 else 2,
            class_sep=separation,
            flip_y=0,
            random_state=seed,
        )
        for seed, (separation, classes, rows, columns) in enumerate(sizes)
    }
    for seed, (classes, rows, columns, clusters) in enumerate([(3, 700, 10, 4), (4, 1000, 15, 3), (2, 500, 10, 5)]):
        found[f"clusters-{classes}-{clusters}"] = datasets.make_classification(
            rows,
            columns,
            n_informative=7,
            n_redundant=0,
            n_classes=classes,
            n_clusters_per_class=clusters,
            class_sep=1.2,
            flip_y=0,
            random_state=10 + seed,
        )
    found["blobs-6"] = datasets.make_blobs(500, centers=6, cluster_std=3.5, n_features=4, random_state=3)
    found["moons-0.35"] = datasets.make_moons(500, noise=0.35, random_state=2)
    return found


def _distracted() -> dict[str, Table]:
    """Classes by the signs of some columns, with useless ones beside, and circles and wine with such columns."""
    random = np.random.default_rng(0)
    inputs, classes = datasets.make_circles(500, noise=0.1, factor=0.5, random_state=3)
    found = {"circles+8": (np.c_[inputs, random.normal(size=(500, 8))], classes)}
    points = random.normal(size=(600, 6))
    found["parity-3-of-6"] = (points, (points[:, :3] > 0).sum(axis=1) % 2)
    points = random.normal(size=(900, 4))
    found["parity-2-of-4"] = (points, (points[:, :2] > 0).sum(axis=1) % 2)
    points = random.uniform(-1, 1, size=(900, 2))
    found["checkers"] = (2 * points, np.floor(2 * points).sum(axis=1).astype(np.int64) % 2)
    wine = datasets.load_wine()
    scaled = (wine.data - wine.data.mean(axis=0)) / wine.data.std(axis=0)
    found["wine+50"] = (np.c_[scaled, random.normal(size=(178, 50))], wine.target)
    return found


def _shells() -> dict[str, Table]:
    """Shells about one centre."""
    found = {
        f"shells-{columns}-{classes}": datasets.make_gaussian_quantiles(
            n_samples=rows, n_features=columns, n_classes=classes, random_state=seed
        )
        for columns, classes, rows, seed in [(10, 4, 600, 1), (5, 3, 600, 4), (6, 5, 1200, 5), (4, 4, 1500, 6)]
    }
    for rows, seed in ((400, 2), (800, 7)):
        inputs, classes = datasets.make_hastie_10_2(rows, random_state=seed)
        found[f"hastie-{rows}"] = (inputs, (classes > 0).astype(np.int64))
    return found


def _small(usual: dict[str, Table]) -> dict[str, Table]:
    """Few rows of tables that are easy with all of theirs."""
    inputs, classes = usual["digits"]
    found = {"digits-400": (inputs[900:1300], classes[900:1300])}
    for name in ("iris", "wine", "breast-cancer", "digits", "blobs", "hypercube"):
        inputs, classes = usual[name]
        rows = np.concatenate([np.flatnonzero(classes == one)[:20] for one in np.unique(classes)])
        found[f"{name}, 20 a class"] = (inputs[np.sort(rows)], classes[np.sort(rows)])
    return found
