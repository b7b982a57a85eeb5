from bayes_influence.curvature.cost import TooLargeError
from bayes_influence.curvature.damping import DiagonalDamping, FisherDamping, IdentityDamping
from bayes_influence.curvature.errors import IndefiniteCurvatureError, NotConvergedError
from bayes_influence.data.arguments import Arguments
from bayes_influence.data.batch import Batch
from bayes_influence.data.dataset import Dataset, Split
from bayes_influence.data.fingerprint import UnidentifiableError
from bayes_influence.data.locks import BusyError
from bayes_influence.data.sealed import DamagedFileError
from bayes_influence.data.sources import as_dataset
from bayes_influence.data.standardisation import standardise
from bayes_influence.data.stream import UnreadableExampleError
from bayes_influence.data.tables import hold_out, leave_out, load_table
from bayes_influence.errors import BayesInfluenceError
from bayes_influence.estimators.classifier import BayesianClassifier
from bayes_influence.estimators.regressor import BayesianRegressor
from bayes_influence.evaluation.agreement import Agreement, agreement
from bayes_influence.evaluation.parameter_sets import ParameterSets, compare_parameters
from bayes_influence.experiments.attribution.labels.of_examples import find_mislabelled
from bayes_influence.experiments.attribution.labels.result import LabelIssues
from bayes_influence.experiments.attribution.labels.settings import LabelSettings
from bayes_influence.experiments.audit.of_networks import audit
from bayes_influence.experiments.audit.result import Audit
from bayes_influence.experiments.audit.settings import AuditSettings
from bayes_influence.experiments.comparison.of_networks import CompareSettings, compare
from bayes_influence.experiments.comparison.result import Comparison
from bayes_influence.experiments.store.runner import FailedCellsError
from bayes_influence.influence.attack import Attack, attack
from bayes_influence.influence.culprit import CulpritFeature, culprit_feature
from bayes_influence.influence.influence import Influence
from bayes_influence.influence.measurements import (
    Margin,
    MutualInformation,
    OutputVariance,
    PredictiveEntropy,
    PredictiveVariance,
    TokenSurprisal,
)
from bayes_influence.influence.scores import InfluenceScores
from bayes_influence.moments.convert import UnsupportedModuleError, to_bayesian, to_deterministic
from bayes_influence.moments.covariance import CovarianceTooLargeError
from bayes_influence.moments.moments import Moments
from bayes_influence.moments.registry import UnsupportedOperationError
from bayes_influence.moments.twins import TwinMismatchError
from bayes_influence.objectives.criteria import InseparableLossError, PerExample
from bayes_influence.objectives.expected_likelihoods import ExpectedBernoulli, TiltedCategorical
from bayes_influence.objectives.likelihoods import Bernoulli, CrossEntropy, GaussianNoise
from bayes_influence.objectives.members import Members
from bayes_influence.objectives.next_token import NextToken
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import GaussianKL, NoRegulariser, WeightDecay
from bayes_influence.objectives.reweighting import largest_losses
from bayes_influence.objectives.ways import NoDerivativeError
from bayes_influence.retraining.from_scratch import FromScratch
from bayes_influence.retraining.influential_group import InfluentialGroup, influential_group
from bayes_influence.retraining.linear_response import LinearResponse
from bayes_influence.retraining.minimum import Minimum
from bayes_influence.retraining.proximal import Proximal, ProximalBregman
from bayes_influence.retraining.refits import Refits, loss_changes
from bayes_influence.retraining.warm import Warm
from bayes_influence.training.checkpoints import CheckpointError
from bayes_influence.training.finiteness import NonFiniteTrainingError
from bayes_influence.training.fits import Fits, fit_schemes
from bayes_influence.training.minimum import minimised, minimum_of
from bayes_influence.training.saved import Saved, load, save
from bayes_influence.training.schedules import SWA, Plateau, Schedule
from bayes_influence.training.schemes import SCHEMES, Scheme, find_schemes

__version__: str

__all__ = [
    "SCHEMES",
    "SWA",
    "Agreement",
    "Arguments",
    "Attack",
    "Audit",
    "AuditSettings",
    "Batch",
    "BayesInfluenceError",
    "BayesianClassifier",
    "BayesianRegressor",
    "Bernoulli",
    "BusyError",
    "CheckpointError",
    "CompareSettings",
    "Comparison",
    "CovarianceTooLargeError",
    "CrossEntropy",
    "CulpritFeature",
    "DamagedFileError",
    "Dataset",
    "DiagonalDamping",
    "ExpectedBernoulli",
    "FailedCellsError",
    "FisherDamping",
    "Fits",
    "FromScratch",
    "GaussianKL",
    "GaussianNoise",
    "IdentityDamping",
    "IndefiniteCurvatureError",
    "Influence",
    "InfluenceScores",
    "InfluentialGroup",
    "InseparableLossError",
    "LabelIssues",
    "LabelSettings",
    "LinearResponse",
    "Margin",
    "Members",
    "Minimum",
    "Moments",
    "MutualInformation",
    "NextToken",
    "NoDerivativeError",
    "NoRegulariser",
    "NonFiniteTrainingError",
    "NotConvergedError",
    "Objective",
    "OutputVariance",
    "ParameterSets",
    "PerExample",
    "Plateau",
    "PredictiveEntropy",
    "PredictiveVariance",
    "Proximal",
    "ProximalBregman",
    "Refits",
    "Saved",
    "Schedule",
    "Scheme",
    "Split",
    "TiltedCategorical",
    "TokenSurprisal",
    "TooLargeError",
    "TwinMismatchError",
    "UnidentifiableError",
    "UnreadableExampleError",
    "UnsupportedModuleError",
    "UnsupportedOperationError",
    "Warm",
    "WeightDecay",
    "__version__",
    "agreement",
    "as_dataset",
    "attack",
    "audit",
    "compare",
    "compare_parameters",
    "culprit_feature",
    "find_mislabelled",
    "find_schemes",
    "fit_schemes",
    "hold_out",
    "influential_group",
    "largest_losses",
    "leave_out",
    "load",
    "load_table",
    "loss_changes",
    "minimised",
    "minimum_of",
    "save",
    "standardise",
    "to_bayesian",
    "to_deterministic",
]
