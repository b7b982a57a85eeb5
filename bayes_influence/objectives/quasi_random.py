"""Normal draws that fill space evenly, the same at every call."""

from __future__ import annotations

from functools import lru_cache
from math import ceil, log2

import numpy as np
from jaxtyping import Float
from scipy.special import ndtri
from scipy.stats import qmc


@lru_cache(maxsize=32)
def sobol_normals(n_draws: int, n_classes: int, seed: int) -> Float[np.ndarray, "S C"]:
    """Scrambled Sobol draws of independent standard normals, the same at every call.

    In numpy, so that a first call under `make_fx` or `vmap` makes constants as any other call does.
    """
    uniform = qmc.Sobol(n_classes, rng=seed).random_base2(ceil(log2(n_draws)))[:n_draws]
    return ndtri(uniform.clip(1e-12, 1 - 1e-12))
