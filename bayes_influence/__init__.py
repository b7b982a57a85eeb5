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
from bayes_influence.objectives.members import Members
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import GaussianKL, NoRegulariser, WeightDecay
from bayes_influence.objectives.reweighting import largest_losses
from bayes_influence.retraining.from_scratch import FromScratch
from bayes_influence.retraining.linear_response import LinearResponse
from bayes_influence.retraining.minimum import Minimum
from bayes_influence.retraining.proximal import Proximal, ProximalBregman
from bayes_influence.retraining.refits import Refits, loss_changes
from bayes_influence.retraining.warm import Warm
from bayes_influence.training.fits import Fits, fit_schemes
from bayes_influence.training.minimum import minimised
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
    "FromScratch",
    "GaussianKL",
    "Influence",
    "InfluenceScores",
    "LinearResponse",
    "Members",
    "Minimum",
    "Moments",
    "NoRegulariser",
    "Objective",
    "Plateau",
    "Proximal",
    "ProximalBregman",
    "Refits",
    "Schedule",
    "Scheme",
    "Split",
    "TiltedCategorical",
    "Warm",
    "WeightDecay",
    "agreement",
    "audit",
    "find_schemes",
    "fit_schemes",
    "largest_losses",
    "leave_out",
    "load_table",
    "loss_changes",
    "minimised",
    "standardise",
    "to_bayesian",
    "to_deterministic",
]
