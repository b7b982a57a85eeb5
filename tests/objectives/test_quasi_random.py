"""Quasi-random normals: repeatable, and evenly spread."""

import numpy as np

from bayes_influence.objectives.quasi_random import sobol_normals


def test_draws_are_the_same_at_every_call():
    sobol_normals.cache_clear()
    first = sobol_normals(12, 3, 0).copy()
    sobol_normals.cache_clear()
    assert np.array_equal(first, sobol_normals(12, 3, 0))
    assert first.shape == (12, 3)
    many = sobol_normals(4096, 2, 1)
    assert np.abs(many.mean(0)).max() < 0.002
    assert np.abs(many.std(0) - 1).max() < 0.005
