import numpy as np
import pandas as pd
import pytest

from bayes_influence.experiments.attribution.labels.of_examples import find_mislabelled
from bayes_influence.experiments.attribution.labels.settings import LabelSettings
from bayes_influence.training.schedules import Schedule

WRONG = (5, 30, 61)
"""Rows of `towns` whose label was changed."""


@pytest.fixture(scope="session")
def towns():
    """Ninety rows of three classes far apart, three of them with a wrong label; names that a page must escape."""
    random = np.random.default_rng(0)
    names = np.array(["north", "<b>south</b>", '=HYPERLINK("x")'])
    true = np.arange(90) % 3
    centres = np.array([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0]])
    points = centres[true] + random.normal(size=(90, 2))
    labels = true.copy()
    for row in WRONG:
        labels[row] = (true[row] + 1) % 3
    place = np.where(true == 0, "</script><script>alert(1)</script>", "@sum")
    return pd.DataFrame({"east": points[:, 0], "up": points[:, 1], "place": place, "label": names[labels]})


@pytest.fixture(scope="session")
def issues(towns):
    settings = LabelSettings(folds=3, seeds=(0,), listed=12)
    return find_mislabelled(towns, "label", schedule=Schedule(60, 0.05), settings=settings)
