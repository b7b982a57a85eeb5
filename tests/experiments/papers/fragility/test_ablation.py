from dataclasses import replace

import pytest

from bayes_influence.experiments.comparison.study import Study
from bayes_influence.experiments.papers.fragility import ablation
from bayes_influence.experiments.papers.fragility.ablation import (
    AblationStudy,
    measure_choices,
    order_of,
    reproduce_ablation,
)
from bayes_influence.experiments.papers.fragility.ablation_report import ways
from bayes_influence.experiments.papers.fragility.choices import AS_PUBLISHED, CORRECTED
from bayes_influence.experiments.papers.fragility.protocol import Pipeline

IRIS = ("by_id", "solved", "evaluation_mode", "working_rate", "removal_sign", "signed")


@pytest.mark.parametrize("scheme", ["weight-decay", "weight-decay+swa", "bnn"])
def test_choices_go_one_by_one_from_as_published_to_everything_right(scheme):
    found = ways(order_of(scheme))
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


@pytest.mark.slow
def test_the_study_writes_table_figure_and_sentences(tmp_path, monkeypatch):
    monkeypatch.setattr(ablation, "ORDER", ("control", "regulariser_in_hessian"))
    study = AblationStudy(scale="quick", removals=4, epochs=30, refit_epochs=5, test_example=83)
    found = reproduce_ablation(study, tmp_path, 1, progress=False)
    assert {"ablation.csv", "ablation-pairs.csv", "ablation.png", "ablation-summary.txt"} <= {
        path.name for path in tmp_path.iterdir()
    }
    (sentence,) = found.findings
    assert sentence.startswith("Depth 1, width 5, weight-decay: signed Spearman ")
    with pytest.raises(ValueError, match="epochs is 30 there and 31 here"):
        reproduce_ablation(replace(study, epochs=31), tmp_path, 1, progress=False)
