"""Eigenvalues, density, trace and effective dimension of a curvature operator."""

from bayes_influence.curvature.spectrum.extremes import ExtremeEigenvalues, extreme_eigenvalues
from bayes_influence.curvature.spectrum.power_iteration import power_iteration_pyhessian

__all__ = ["ExtremeEigenvalues", "extreme_eigenvalues", "power_iteration_pyhessian"]
