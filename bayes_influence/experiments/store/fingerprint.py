"""What trained networks and the functions that build them are, for the fingerprint of a stored result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from bayes_influence.data.fingerprint import fingerprint
from bayes_influence.models.initialisation import seeded
from bayes_influence.objectives.identity import identity
from bayes_influence.training.fits import Fits


def identity_of_fits(fits: Fits) -> dict[str, Any]:
    """Everything about trained networks that what is retrained or estimated from them depends on.

    Scheme, seeds, objective and all parameters; not how long the training took, nor how it was measured.
    """
    return {
        "scheme": fits.scheme,
        "seeds": tuple(fits.seeds),
        "objective": identity(fits.objective),
        "params": fits.params,
    }


def fingerprint_of_builder(make_network: Callable[[], nn.Module]) -> str:
    """The fingerprint of the network that a function builds from one seed: its layers, and how they are initialised.

    The caller's generator is left as it was.
    """
    with seeded(0):
        network = make_network()
    return fingerprint(network=network)
