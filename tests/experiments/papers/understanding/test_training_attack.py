import re

import numpy as np
import pandas as pd
import pytest
import torch

from bayes_influence.experiments.papers.understanding.training_attack import (
    COUNTS,
    STUDIES,
    TrainingAttack,
    fitted_head,
)
from bayes_influence.experiments.store.folder import StudyFolder

SMALL = TrainingAttack(victims=2, train=20, feature_images=60, width=6, side=4, step=0.2, steps=3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train": 9}, "train must be at least 10, got 9"),
        ({"step": 0.0}, "step must be positive, or no pixel moves, got 0.0"),
        ({"decay": -1.0}, "decay must be positive, or refits have no minimum to reach, got -1.0"),
        ({"victims": 0}, "victims must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        TrainingAttack(**settings)


def test_the_last_layer_stands_at_its_minimum_on_images_that_the_features_have_not_seen(pair):
    objective, train, test = fitted_head(SMALL, 0)
    assert len(train) == 20
    assert set(test.targets.tolist()) == {0, 1}
    flat = objective.flat
    slope = torch.func.grad(lambda at: flat.losses(at, train.batch()).mean() + flat.regulariser(at))(flat.theta)
    assert float(slope.norm()) < 1e-9


@pytest.mark.slow
def test_the_study_counts_turned_predictions_and_keeps_pictures(pair, tmp_path):
    done = STUDIES[0].run(SMALL, tmp_path, 1, False)
    attacks = pd.read_csv(tmp_path / "attacks.csv")
    assert sorted(attacks["count"].unique()) == list(COUNTS)
    assert len(attacks) == 2 * len(COUNTS)
    shares = attacks.groupby("count")["flipped"].mean()
    np.testing.assert_allclose(done.table.set_index("count")["flipped"], shares)
    assert (done.table["flipped_low"] <= done.table["flipped"]).all()
    assert (attacks["largest_move"] <= 0.6 + 1e-9).all()
    pictures = StudyFolder.open(tmp_path).load_cell("seed=0").arrays["pictures"]
    turned = int((attacks["flipped"] & (attacks["count"] == 1)).sum())
    assert pictures.shape == (turned, 3, 4, 4)
    assert done.findings[0].startswith("1 training images moved: ")
    assert all(path.exists() for path in done.figures)
