"""Influence functions for Bayesian and deterministic neural networks, measured against retraining."""

from bayes_influence.data.dataset import Batch, Dataset, Split
from bayes_influence.data.standardisation import standardise
from bayes_influence.data.tables import leave_out, load_table
from bayes_influence.evaluation.agreement import Agreement, agreement
from bayes_influence.experiments.audit.of_networks import audit
from bayes_influence.experiments.audit.result import Audit
from bayes_influence.experiments.audit.settings import AuditSettings
from bayes_influence.influence.influence import Influence
from bayes_influence.influence.scores import InfluenceScores
from bayes_influence.moments.convert import to_bayesian, to_deterministic
from bayes_influence.moments.moments import Moments
from bayes_influence.objectives.expected_likelihoods import TiltedCategorical
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import GaussianKL, NoRegulariser, WeightDecay
from bayes_influence.objectives.reweighting import largest_losses
from bayes_influence.retraining.minimum import newton_refits
from bayes_influence.retraining.refits import Refits, loss_changes
from bayes_influence.retraining.trained import trained_refits
from bayes_influence.training.fits import Fits, fit_schemes
from bayes_influence.training.schedules import SWA, Plateau, Schedule
from bayes_influence.training.schemes import SCHEMES, Scheme, find_schemes

__all__ = [
    "SCHEMES",
    "SWA",
    "Agreement",
    "Audit",
    "AuditSettings",
    "Batch",
    "CrossEntropy",
    "Dataset",
    "Fits",
    "GaussianKL",
    "Influence",
    "InfluenceScores",
    "Moments",
    "NoRegulariser",
    "Objective",
    "Plateau",
    "Refits",
    "Schedule",
    "Scheme",
    "Split",
    "TiltedCategorical",
    "WeightDecay",
    "agreement",
    "audit",
    "find_schemes",
    "fit_schemes",
    "largest_losses",
    "leave_out",
    "load_table",
    "loss_changes",
    "newton_refits",
    "standardise",
    "to_bayesian",
    "to_deterministic",
    "trained_refits",
]
