import numpy as np
import pandas as pd
import pytest
from scipy.stats import sem, t

from bayes_influence.experiments.papers.fragility.settings import SIZES
from bayes_influence.experiments.papers.fragility.tables import published_iris
from bayes_influence.experiments.papers.means import mean_table
from bayes_influence.training.schemes import DEFAULT_SCHEMES


def test_means_have_student_s_interval():
    values = [0.1, 0.4, 0.7, 0.2]
    results = pd.DataFrame({"scheme": ["one"] * 4, "depth": 1, "spearman": values})
    row = mean_table(results, ["depth", "scheme"], ["spearman"]).iloc[0]
    half = t.ppf(0.975, 3) * sem(values)
    assert (row["repeats"], row["spearman"]) == (4, pytest.approx(np.mean(values)))
    assert [row["spearman_low"], row["spearman_high"]] == pytest.approx([0.35 - half, 0.35 + half])


def test_published_numbers_cover_every_scheme_and_size():
    table = published_iris()
    cells = set(table[["scheme", "depth", "width"]].itertuples(index=False, name=None))
    assert cells == {(scheme, depth, width) for scheme in DEFAULT_SCHEMES for depth, width in SIZES}
    assert (table["absolute"] >= table["signed"].abs() - 1e-3).all()
    decay = table[(table["scheme"] == "weight-decay") & (table["depth"] == 1)].set_index("width")
    assert decay.loc[5, "signed"] == pytest.approx(0.655, abs=1e-3)
    assert decay.loc[50, "signed"] == pytest.approx(-0.033, abs=1e-3)
