"""The main job on real data, small: what it writes, and that its numbers are what they say."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import pearsonr, spearmanr

from bayes_influence.experiments.comparison import regularisers as compare_module
from bayes_influence.experiments.comparison.regularisers import compare_regularisers
from bayes_influence.experiments.comparison.study import Study

SMALL = Study(repeats=2, removals=8, epochs=600, refit_epochs=100, test_example=83)
ROWS = [
    ("none", "influence"),
    ("weight-decay", "influence"),
    ("swa", "influence"),
    ("weight-decay+swa", "influence"),
    ("bnn", "variational"),
    ("bnn", "posterior-mean"),
]


def test_everything_promised_is_written(compared):
    written = {path.name for path in compared.folder.iterdir()}
    tables = {"results.csv", "differences.csv", "damping.csv", "summary.csv", "friedman.csv", "pairs.csv"}
    assert tables | {"figure.png", "figure.pdf", "damping.png", "damping.pdf", "config.json"} <= written
    config = json.loads((compared.folder / "config.json").read_text())
    assert (compared.folder / "findings.txt").read_text().splitlines() == list(compared.findings)
    assert any(line.startswith("Spearman, depth 1, width 5, 2 seeds: Friedman p = ") for line in compared.findings)
    assert config["config"]["epochs"] == 600
    assert config["config"]["resolved_schemes"]["bnn"]["prior_scale"] == 1.0
    assert config["versions"]["torch"] == torch.__version__
    assert (compared.folder / "figure.png").stat().st_size > 10_000


def test_tables_are_tidy(compared):
    results = pd.read_csv(compared.folder / "results.csv")
    assert len(results) == len(ROWS) * 2
    assert list(results[["scheme", "estimator"]].drop_duplicates().itertuples(index=False, name=None)) == ROWS
    differences = pd.read_csv(compared.folder / "differences.csv")
    assert len(differences) == len(ROWS) * 2 * 8
    assert differences.groupby(["scheme", "estimator", "seed"])["example"].nunique().eq(8).all()
    assert 83 not in set(differences["example"])


def test_statistics_are_those_of_the_stored_differences(compared):
    for keys, points in compared.differences.groupby(["scheme", "estimator", "seed"]):
        row = compared.results.set_index(["scheme", "estimator", "seed"]).loc[keys]
        assert row["spearman"] == pytest.approx(spearmanr(points["estimated"], points["true"])[0], abs=1e-12)
        assert row["pearson"] == pytest.approx(pearsonr(points["estimated"], points["true"])[0], abs=1e-12)


def test_regularised_schemes_agree_with_retraining_in_sign_order_and_size(compared):
    summary = compared.summary.set_index(["scheme", "estimator"])
    for keys in [("weight-decay", "influence"), ("weight-decay+swa", "influence"), ("bnn", "variational")]:
        row = summary.loc[keys]
        assert row["spearman"] > 0.95
        assert row["pearson"] > 0.98
        assert 0.85 < row["slope"] < 1.25
        assert row["refits_converged"]
        assert row["gradient_norm"] <= 1e-10
        assert row["hessian_min"] > 0
    assert summary.loc[("weight-decay", "influence"), "hessian_min"] == pytest.approx(0.005, rel=1e-6)


def test_unregularised_schemes_are_damped_and_say_so(compared):
    row = compared.summary.set_index(["scheme", "estimator"]).loc[("none", "influence")]
    assert row["damping"] > 0
    assert abs(row["hessian_min"]) < 1e-12
    assert not row["refits_converged"]
    assert row["gradient_norm"] > 1e-4


def test_the_damping_sweep_spans_from_the_undamped_estimate_to_shrunk_ones(compared):
    sweep = compared.damping[(compared.damping["scheme"] == "weight-decay") & (compared.damping["seed"] == 0)]
    results = compared.results.set_index(["scheme", "seed"]).sort_index()
    assert sweep["slope"].iloc[0] == pytest.approx(results.loc[("weight-decay", 0), "slope"], rel=1e-4)
    assert sweep["slope"].is_monotonic_increasing  # more damping, smaller estimates
    assert (sweep["delta"].diff().dropna() > 0).all()


def test_running_again_computes_nothing_and_changes_nothing(compared, monkeypatch):
    def fail(study, **options):
        raise AssertionError("a finished cell was computed again")

    before = (compared.folder / "results.csv").read_bytes()
    monkeypatch.setattr(compare_module, "measure", fail)
    again = compare_regularisers(SMALL, compared.folder, n_jobs=1, progress=False)
    assert (compared.folder / "results.csv").read_bytes() == before
    pd.testing.assert_frame_equal(again.results, compared.results)


def test_another_study_in_the_same_folder_is_refused(compared):
    other = dataclasses.replace(SMALL, repeats=3)
    with pytest.raises(ValueError, match="belongs to another configuration: repeats is 2 there and 3 here"):
        compare_regularisers(other, compared.folder, progress=False)


def test_a_seed_s_results_do_not_depend_on_how_many_there_are(compared, tmp_path):
    schemes = ("weight-decay",)
    alone = dataclasses.replace(SMALL, repeats=1, seed=1, schemes=schemes)
    result = compare_regularisers(alone, tmp_path / "alone", n_jobs=1, progress=False)
    own = compared.differences.query("scheme == 'weight-decay' and seed == 1")
    assert own["example"].tolist() == result.differences["example"].tolist()
    assert np.allclose(own[["estimated", "true"]], result.differences[["estimated", "true"]], atol=1e-9)


def test_influence_in_all_parameters_is_held_against_refits_of_all_layers(tmp_path):
    study = Study(
        repeats=1, removals=5, epochs=300, refit_epochs=50, schemes=("weight-decay",), parameters="all",
        activation="tanh", test_example=83,
    )  # fmt: skip
    result = compare_regularisers(study, tmp_path / "all", n_jobs=1, progress=False)
    assert result.results["refit_gradient_norm"].notna().all()
    assert result.results["spearman"].notna().all()


@pytest.mark.slow
def test_the_published_failure_does_not_occur(tmp_path):
    """Weight decay, last layer, the paper's smallest and widest network: mean signed Spearman at least .99."""
    for width in (5, 50):
        study = Study(width=width, schemes=("weight-decay",), test_example=83)
        result = compare_regularisers(study, tmp_path / f"{width}", n_jobs=1, progress=False)
        assert result.summary["spearman"].iloc[0] >= 0.99
