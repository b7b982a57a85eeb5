"""The software that a result was computed with."""

from __future__ import annotations

import platform
from importlib.metadata import version

PACKAGES = ("bayes-influence", "torch", "numpy", "scipy", "scikit-learn", "statsmodels", "pandas", "joblib")
"""Distributions whose versions a study records."""


def environment() -> dict[str, str]:
    """Versions of Python and of the packages behind the numbers, with operating system and processor kind.

    Names of machines, users and folders are left out, so that it can be published with a study.
    """
    versions = {name: version(name) for name in PACKAGES}
    return {"python": platform.python_version(), "system": platform.system(), "machine": platform.machine(), **versions}
