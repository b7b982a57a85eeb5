"""Eigenvalues, density, trace and effective dimension of a curvature operator."""

from bayes_influence.curvature.spectrum.density import (
    Estimate,
    SpectralDensity,
    effective_dimension,
    spectral_density,
)
from bayes_influence.curvature.spectrum.extremes import ExtremeEigenvalues, extreme_eigenvalues
from bayes_influence.curvature.spectrum.lanczos import Tridiagonal, lanczos
from bayes_influence.curvature.spectrum.power_iteration import power_iteration_pyhessian, trace_pyhessian
from bayes_influence.curvature.spectrum.trace import hutch_plus_plus, hutchinson, xtrace

__all__ = [
    "Estimate",
    "ExtremeEigenvalues",
    "SpectralDensity",
    "Tridiagonal",
    "effective_dimension",
    "extreme_eigenvalues",
    "hutch_plus_plus",
    "hutchinson",
    "lanczos",
    "power_iteration_pyhessian",
    "spectral_density",
    "trace_pyhessian",
    "xtrace",
]
