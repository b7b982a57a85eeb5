import re

import pandas as pd
import pytest
import torch
from torch import nn

from bayes_influence.experiments.papers.regression import fitted_regression
from bayes_influence.experiments.papers.understanding.loo_logistic import (
    CG,
    LISSA,
    SOLVERS,
    STUDIES,
    LooLogistic,
    retrained,
    scored,
)
from bayes_influence.influence.influence import Influence
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay
from bayes_influence.training.minimum import minimum_of

SMALL = LooLogistic(train=120, side=4, removals=12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"removals": 2}, "removals must be at least 3, got 2"),
        ({"train": 60, "removals": 61}, "only 60 images can be removed one at a time, got 61"),
        ({"decay": 0.0}, "decay must be positive, or refits have no minimum to reach, got 0.0"),
        ({"side": 5}, "side must divide 28, the pixels of an image's side, got 5; take 14 or 7"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        LooLogistic(**settings)


def test_both_solvers_solve_the_same_undamped_system(patterns):
    split = SMALL.images(0, train=120, test=10)
    objective, test = fitted_regression(split.train, 0.01), split.test.select([0])
    exact = Influence(objective, split.train, damping=0.0, solver="cholesky").on_loss(test).removal[0]
    found = {solver: scored(objective, split.train, test, solver, repeats=4) for solver in SOLVERS}
    torch.testing.assert_close(found[CG].removal[0], exact, rtol=1e-3, atol=1e-7)
    noisy = found[LISSA].removal[0]
    assert float(torch.corrcoef(torch.stack([noisy, exact]))[0, 1]) > 0.99
    assert "LiSSA" in found[LISSA].solver


def test_the_truth_is_a_fit_without_the_image(patterns):
    split = SMALL.images(0, train=60, test=10)
    objective, test = fitted_regression(split.train, 0.05), split.test.select([1])
    ids = split.train.ids[[3, 40]]
    found = retrained(objective, split.train, test, ids)
    before = float(objective.losses(objective.params, test.batch()))
    for one, effect in zip(ids, found.tolist(), strict=True):
        # 1/n is kept: the mean over 59 with 59/60 of the loss is minimised with 60/59 of the decay.
        fresh = Objective(nn.Linear(16, 3, dtype=torch.float64), CrossEntropy(), WeightDecay(0.05 * 60 / 59))
        alone = minimum_of(fresh, split.train.without(one))
        assert effect == pytest.approx(float(alone.losses(alone.params, test.batch())) - before, abs=1e-9)


def test_predictions_agree_with_retraining_and_the_summary_says_so(patterns, tmp_path):
    done = STUDIES[0].run(SMALL, tmp_path, 1, False)
    table = done.table.set_index("solver")
    assert table.loc[CG, "pearson"] > 0.995
    assert table.loc[LISSA, "pearson"] > 0.99
    assert table["slope"].between(0.8, 1.3).all()
    effects = pd.read_csv(tmp_path / "effects.csv")
    assert len(effects) == 2 * 12
    own = effects[effects["solver"] == CG]["estimated"].abs()
    assert own.is_monotonic_decreasing
    assert done.findings[0].startswith("conjugate gradients: Pearson 0.99")
    assert all(path.exists() for path in done.figures)
