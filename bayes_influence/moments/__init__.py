"""Means and variances of activations, one rule per operation, and the conversion of a deterministic network."""

from bayes_influence.moments import (  # noqa: F401 (they register rules)
    activations,
    arithmetic,
    attention,
    dropout,
    exact,
    linear,
    maximum,
    normalisation,
    pooling,
    quadratic,
    resampling,
    shapes,
    softmax,
)
from bayes_influence.moments.calibration import variance_factors
from bayes_influence.moments.check import MomentCheck, moment_check
from bayes_influence.moments.convert import UnsupportedModuleError, to_bayesian, to_deterministic
from bayes_influence.moments.covariance import CovarianceTooLargeError
from bayes_influence.moments.elementwise_functions import elementwise
from bayes_influence.moments.initial import fan_in_sigma, relative_sigma
from bayes_influence.moments.layers import is_bayesian
from bayes_influence.moments.moments import VARIANCE_FLOOR, Approximation, Moments
from bayes_influence.moments.prediction import diagonal_moments, linearized_moments, sampled_moments
from bayes_influence.moments.registry import UnsupportedOperationError, rule
from bayes_influence.moments.twins import TwinMismatchError, check_twin

__all__ = [
    "VARIANCE_FLOOR",
    "Approximation",
    "CovarianceTooLargeError",
    "MomentCheck",
    "Moments",
    "TwinMismatchError",
    "UnsupportedModuleError",
    "UnsupportedOperationError",
    "check_twin",
    "diagonal_moments",
    "elementwise",
    "fan_in_sigma",
    "is_bayesian",
    "linearized_moments",
    "moment_check",
    "relative_sigma",
    "rule",
    "sampled_moments",
    "to_bayesian",
    "to_deterministic",
    "variance_factors",
]
