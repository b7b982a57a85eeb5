from dataclasses import replace

import pandas as pd
import pytest

from bayes_influence.experiments.comparison.study import Study
from bayes_influence.experiments.papers.fragility import ablation
from bayes_influence.experiments.papers.fragility.ablation import (
    AblationStudy,
    ablation_findings,
    measure_choices,
    paired_with_published,
    reproduce_ablation,
    ways,
)
from bayes_influence.experiments.papers.fragility.choices import AS_PUBLISHED, CORRECTED
from bayes_influence.experiments.papers.fragility.protocol import Pipeline
from bayes_influence.experiments.papers.means import mean_table

IRIS = ("by_id", "solved", "evaluation_mode", "working_rate", "removal_sign", "signed")


@pytest.mark.parametrize("scheme", ["weight-decay", "weight-decay+swa", "bnn"])
def test_choices_go_one_by_one_from_as_published_to_everything_right(scheme):
    found = ways(scheme)
    alone = [choices for way, _, choices in found if way == "alone"]
    together = [choices for way, _, choices in found if way == "together"]
    assert alone[0] == together[0] == AS_PUBLISHED
    assert all(len(AS_PUBLISHED.published) - len(choices.published) == 1 for choices in alone[1:])
    counts = [len(choices.published) for choices in together]
    assert counts == list(range(counts[0], counts[-1] - 1, -1))
    elsewhere = {"weight-decay": {"swa_from_average", "one_objective", "one_activation"}}.get(scheme, set())
    others = set(together[-1].published) - elsewhere
    assert others <= {*IRIS, "swa_from_average", "one_objective", "one_activation"}
    assert set(IRIS) <= set(together[-1].published)


@pytest.mark.slow
def test_the_last_step_together_is_the_corrected_protocol():
    study = Study(repeats=2, removals=6, epochs=150, refit_epochs=20, test_example=83, schemes=("weight-decay",))
    results = measure_choices(study).tables["results"]
    assert len(results) == 2 * 20
    last = results[(results["way"] == "together") & (results["choice"] == "points")]
    right = Pipeline(study, 6).measure(replace(CORRECTED, points=6)).results
    assert last["spearman"].to_numpy() == pytest.approx(right["spearman"].to_numpy(), abs=1e-12)
    published = results[(results["way"] == "alone") & (results["choice"] == "as published")]
    same = results[(results["way"] == "alone") & (results["choice"] == "exact_refits")]
    assert same["spearman"].tolist() == published["spearman"].tolist()  # no last layer, no single precision minimum


def _results():
    rows = []
    for way, choice, values in (
        ("alone", "as published", [0.1, 0.2, 0.3]),
        ("alone", "control", [0.2, 0.2, 0.4]),
        ("alone", "biases", [0.6, 0.7, 0.9]),
        ("together", "as published", [0.1, 0.2, 0.3]),
        ("together", "control", [0.8, 0.8, 0.7]),
        ("together", "biases", [1.0, 1.0, 0.9]),
    ):
        for seed, value in enumerate(values):
            rows.append({"way": way, "choice": choice, "seed": seed, "spearman": value, "absolute_spearman": value})
    return pd.DataFrame(rows).assign(depth=1, width=5, scheme="weight-decay")


def test_sentences_name_the_choice_that_moves_most():
    summary = mean_table(_results(), ablation.KEYS, ["spearman", "absolute_spearman"])
    (sentence,) = ablation_findings(summary)
    assert "signed Spearman 0.2 (-0.0484 … 0.448) as published; alone biases gives most, 0.733" in sentence
    assert "the largest step is control, to 0.767" in sentence
    assert "everything right 0.967" in sentence


def test_choices_are_paired_with_as_published_over_seeds():
    pairs = paired_with_published(_results()).set_index(["way", "first"])
    assert pairs.loc[("alone", "biases"), "mean_difference"] == pytest.approx((0.5 + 0.5 + 0.6) / 3)
    assert (pairs["second"] == "as published").all()


def test_the_study_writes_table_figure_and_sentences(tmp_path, monkeypatch):
    monkeypatch.setattr(ablation, "ORDER", ("control", "regulariser_in_hessian"))
    study = AblationStudy(scale="quick", removals=4, epochs=30, refit_epochs=5, test_example=83)
    found = reproduce_ablation(study, tmp_path, 1, progress=False)
    assert {"ablation.csv", "ablation-pairs.csv", "ablation.png", "ablation-summary.txt"} <= {
        path.name for path in tmp_path.iterdir()
    }
    assert len(found.findings) == 1
    with pytest.raises(ValueError, match="epochs is 30 there and 31 here"):
        reproduce_ablation(replace(study, epochs=31), tmp_path, 1, progress=False)
