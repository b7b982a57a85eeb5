"""Influence functions for Bayesian and deterministic neural networks, measured against retraining."""

from bayes_influence.data.dataset import Batch, Dataset, Split
from bayes_influence.data.standardisation import standardise
from bayes_influence.data.tables import leave_out, load_table
from bayes_influence.influence.influence import Influence
from bayes_influence.influence.scores import InfluenceScores
from bayes_influence.moments.convert import to_bayesian, to_deterministic
from bayes_influence.moments.moments import Moments
from bayes_influence.objectives.expected_likelihoods import TiltedCategorical
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import GaussianKL, NoRegulariser, WeightDecay

__all__ = [
    "Batch",
    "CrossEntropy",
    "Dataset",
    "GaussianKL",
    "Influence",
    "InfluenceScores",
    "Moments",
    "NoRegulariser",
    "Objective",
    "Split",
    "TiltedCategorical",
    "WeightDecay",
    "leave_out",
    "load_table",
    "standardise",
    "to_bayesian",
    "to_deterministic",
]
