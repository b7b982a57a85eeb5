"""Bad calls of what the rooms offer beside the library's first names: schedules, solvers, statistics, made-up data."""

import numpy as np
import pytest

from bayes_influence.curvature.kinds import as_curvature
from bayes_influence.curvature.solvers.conjugate_gradients import ConjugateGradients
from bayes_influence.curvature.solvers.lissa import LiSSA
from bayes_influence.curvature.solvers.minres import MINRES
from bayes_influence.curvature.solvers.registry import as_solver
from bayes_influence.data.catalogue import find_known
from bayes_influence.data.images import load_images
from bayes_influence.data.synthetic import gaussian_classes, logistic_classes
from bayes_influence.evaluation.agreement import agreement
from bayes_influence.evaluation.calibration import calibration
from bayes_influence.evaluation.intervals import mean_interval, two_level_bootstrap
from bayes_influence.evaluation.lds import lds
from bayes_influence.evaluation.statistics import spearman
from bayes_influence.training.averaging import SWAG
from bayes_influence.training.minibatch_schedule import MinibatchSchedule
from bayes_influence.training.optimisers import SGD, Adam
from bayes_influence.training.schedules import SWA
from tests.bad_inputs.calls import check_refused

OFFERED = (
    *(as_curvature, ConjugateGradients, LiSSA, MINRES, as_solver, find_known, load_images, gaussian_classes),
    *(logistic_classes, agreement, calibration, mean_interval, two_level_bootstrap, lds, spearman, SWAG),
    *(MinibatchSchedule, SGD, Adam, SWA),
)
NAMES = {one.__name__: one for one in OFFERED} | {"np": np, "nan": np.nan, "inf": np.inf, "five": np.arange(5.0)}

ROWS = [
    ("SWA(start=1.0)", ValueError, r"SWA needs fractions in \[0, 1\) and a positive learning rate, got start=1.0"),
    ("SWA(learning_rate=inf)", ValueError, "SWA needs fractions .* learning_rate=inf"),
    ('SWA(start="half")', TypeError, "start must be a number, got str 'half'; give a float"),
    ("SWAG(rank=0)", ValueError, "SWAG needs a rank of at least 2, got 0"),
    ("MinibatchSchedule(epochs=0)", ValueError, "epochs and batch_size must be at least 1, got epochs=0"),
    ("MinibatchSchedule(epochs=1.5)", TypeError, "epochs must be a whole number, got float 1.5; give an int"),
    ('MinibatchSchedule(batch_size="8")', TypeError, "batch_size must be a whole number, got str '8'; give an int"),
    ("MinibatchSchedule(learning_rate=inf)", ValueError, "learning rate and clip must be positive, got .*=inf"),
    ("MinibatchSchedule(learning_rate=nan)", ValueError, "learning rate and clip must be positive, got .*=nan"),
    (
        'MinibatchSchedule(optimiser="adam")',
        TypeError,
        r"optimiser must be Adam\(...\), SGD\(...\) or IVON\(...\), got str 'adam'",
    ),
    ('MinibatchSchedule(decay="linear")', ValueError, "unknown decay 'linear'; known: constant, cosine"),
    ("MinibatchSchedule(warmup=1.0)", ValueError, r"warmup must lie in \[0, 1\) and annealing in \[0, 1\]"),
    ("MinibatchSchedule(annealing=nan)", ValueError, r"annealing in \[0, 1\] .* got 0.0 and nan"),
    ("MinibatchSchedule(plateau=3)", TypeError, r"plateau must be a Plateau\(...\), or None to keep the rate, got int"),
    ("SGD(momentum=2)", ValueError, r"momentum must lie in \[0, 1\), got 2"),
    ("Adam((0.9, 1.0))", ValueError, r"Adam needs betas in \[0, 1\) and epsilon > 0, got \(0.9, 1.0\)"),
    ("Adam(epsilon=0)", ValueError, r"Adam needs betas in \[0, 1\) and epsilon > 0, got .* and 0"),
    ("ConjugateGradients(tolerance=-1)", ValueError, "the tolerance of a solver must be positive, got -1"),
    ('ConjugateGradients(tolerance="small")', TypeError, "the tolerance of a solver must be a number, got str 'small'"),
    ("ConjugateGradients(max_iterations=0)", ValueError, "max_iterations must be at least 1, got 0"),
    ("ConjugateGradients(max_iterations=1.5)", TypeError, "max_iterations must be a whole number, got float 1.5"),
    ("MINRES(max_iterations=-1)", ValueError, "max_iterations must be at least 1, got -1"),
    ('MINRES(on_failure="ignore")', ValueError, "on_failure must be 'warn' or 'raise', got 'ignore'"),
    ("LiSSA(steps=0)", ValueError, "steps must be at least 1, got 0"),
    ('LiSSA(steps="10")', TypeError, "steps must be a whole number, got str '10'; give an int"),
    ("LiSSA(repeats=0)", ValueError, "repeats must be at least 1, got 0"),
    ('as_solver("nope")', ValueError, "unknown solver 'nope'; known: auto, cholesky"),
    ("as_solver(3)", TypeError, "a solver is an object such as"),
    ('as_curvature("nope")', ValueError, "unknown curvature 'nope'; known: hessian, ggn"),
    ("as_curvature(3)", TypeError, "a curvature is a kind such as"),
    ("agreement(five[:2], five[:2])", ValueError, "agreement needs at least 3 removed examples, got 2; remove more"),
    ("agreement(five, five[:4])", ValueError, "estimated and true must be vectors of one length"),
    ("agreement(five, five, top_k=0)", ValueError, "top_k must lie between 1 and the number of examples, 5, got 0"),
    ('agreement("abc", five)', TypeError, "estimated loss differences must be real numbers, got an array"),
    ("mean_interval(np.ones((2, 2)))", ValueError, "an interval over seeds takes one value per seed"),
    ("mean_interval(five, level=95)", ValueError, "the level of an interval lies between 0 and 1, such as 0.95, got"),
    (
        "two_level_bootstrap(np.ones((2, 3)), np.ones((2, 4)), spearman)",
        ValueError,
        r"estimated and true must both be \(runs, n\)",
    ),
    ("two_level_bootstrap(five, five, spearman, n_resamples=0)", ValueError, "n_resamples must be at least 1, got 0"),
    ("lds(np.ones((2, 5), bool), np.ones((5, 1)), np.ones((2, 1)))", ValueError, "lds needs masks"),
    ("lds(np.ones((9, 5)), np.ones((1, 5)), np.ones((9, 1)))", ValueError, "masks must be boolean, true where an"),
    ("calibration(np.ones((3, 2)), np.array([0, 1, 0]))", ValueError, "probabilities must be finite, at least 0 and"),
    ("calibration(np.full((3, 2), 0.5), np.array([0, 1, 2]))", ValueError, r"targets must lie in 0\.\.1, got 0\.\.2"),
    ("calibration(np.full((3, 2), 0.5), np.array([0, 1]))", ValueError, "expected probabilities .n, C. and integer"),
    ("logistic_classes(0, 3)", ValueError, "n must be at least 1, got 0"),
    ("logistic_classes(10.5, n_features=3)", TypeError, "n must be a whole number, got float 10.5; give an int"),
    ("logistic_classes(10, n_features=0)", ValueError, "n_features must be at least 1, got 0"),
    ("logistic_classes(10, n_features=3, n_classes=1)", ValueError, "need at least 2 classes, got n_classes=1"),
    ("gaussian_classes(2, n_classes=5)", ValueError, "need at least 2 classes of 2 members each, got n=2"),
    ('load_images("nope")', ValueError, "unknown image set 'nope'; known: cifar10, fashion-mnist, mnist"),
    ('find_known("nope")', ValueError, "unknown dataset 'nope'; known: iris, wine"),
]


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(("call", "error", "message"), ROWS, ids=[row[0] for row in ROWS])
def test_it_is_refused_in_words_of_our_own(call, error, message):
    check_refused(call, error, message, NAMES)
