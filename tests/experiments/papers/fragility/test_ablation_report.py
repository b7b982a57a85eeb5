import pandas as pd
import pytest

from bayes_influence.experiments.papers.fragility.ablation_report import (
    LABEL,
    ablation_figure,
    ablation_findings,
    paired_with_published,
    report,
    summarised,
    ways,
)
from bayes_influence.experiments.papers.fragility.choices import AS_PUBLISHED
from bayes_influence.experiments.store.folder import StudyFolder


@pytest.fixture
def results():
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
    whole = pd.DataFrame(rows).assign(pearson=0.5, slope=1.0, top_k_overlap=1.0)
    return whole.assign(**{LABEL: "Depth 1, width 5, weight-decay", "depth": 1, "width": 5})


def test_choices_go_one_by_one_from_as_published():
    found = ways(("control", "biases", "solved"))
    assert [(way, choice) for way, choice, _ in found] == [
        ("alone", "as published"),
        ("alone", "control"),
        ("alone", "biases"),
        ("alone", "solved"),
        ("together", "as published"),
        ("together", "control"),
        ("together", "biases"),
        ("together", "solved"),
    ]
    right = [{name for name in AS_PUBLISHED.published if name not in choices.published} for _, _, choices in found]
    assert right[:4] == [set(), {"control"}, {"biases"}, {"solved"}]
    assert right[4:] == [set(), {"control"}, {"control", "biases"}, {"control", "biases", "solved"}]


def test_sentences_name_the_choice_that_moves_most(results):
    summary = summarised(results, [LABEL, "way", "choice"])
    (sentence,) = ablation_findings(summary)
    assert sentence.startswith("Depth 1, width 5, weight-decay: signed Spearman 0.2 (-0.0484 … 0.448) as published; ")
    assert "alone biases gives most, 0.733" in sentence
    assert "the largest step is control, to 0.767" in sentence
    assert "everything right 0.967" in sentence
    assert sentence.endswith("(3 seeds).")


def test_an_undefined_correlation_is_said_and_is_no_order(results):
    published = results["choice"].isin(["as published", "control"])
    diverged = results.assign(spearman=results["spearman"].mask(published))
    summary = summarised(diverged, [LABEL, "way", "choice"])
    (sentence,) = ablation_findings(summary)
    assert "signed Spearman undefined as published; alone biases gives most, 0.733" in sentence
    assert "the largest step is biases, to 0.967" in sentence


def test_seeds_without_a_correlation_are_counted_beside_the_mean_of_the_others(results):
    first = (results["choice"] == "as published") & (results["seed"] == 0)
    summary = summarised(results.assign(spearman=results["spearman"].mask(first)), [LABEL, "way", "choice"])
    assert summary["undefined"].tolist() == [1, 0, 0, 1, 0, 0]
    assert summary["spearman"].tolist() == pytest.approx([0.25, 0.8 / 3, 2.2 / 3, 0.25, 2.3 / 3, 2.9 / 3])
    (sentence,) = ablation_findings(summary)
    assert "signed Spearman 0.25 (-0.385 … 0.885) (undefined in 1 of 3) as published; alone biases" in sentence


def test_choices_are_paired_with_as_published_over_seeds(results):
    pairs = paired_with_published(results, [LABEL, "depth"]).set_index(["way", "first"])
    assert pairs.loc[("alone", "biases"), "mean_difference"] == pytest.approx((0.5 + 0.5 + 0.6) / 3)
    assert pairs.loc[("together", "control"), "mean_difference"] == pytest.approx((0.7 + 0.6 + 0.4) / 3)
    assert (pairs["second"] == "as published").all()
    assert (pairs["depth"] == 1).all()


def test_every_network_has_a_row_of_panels_with_its_means_and_intervals(results):
    other = results.assign(**{LABEL: "Depth 4, width 5, weight-decay", "spearman": -results["spearman"]})
    summary = summarised(pd.concat([results, other]), [LABEL, "way", "choice"])
    panels = ablation_figure(summary).axes
    assert [axes.get_title() for axes in panels] == [
        f"Depth {depth}, width 5, weight-decay: corrected {way}" for depth in (1, 4) for way in ("alone", "together")
    ]
    assert panels[0].containers[0].lines[0].get_ydata() == pytest.approx([0.2, 0.8 / 3, 2.2 / 3])
    assert panels[3].containers[0].lines[0].get_ydata() == pytest.approx([-0.2, -2.3 / 3, -2.9 / 3])
    assert panels[2].containers[1].lines[0].get_ydata() == pytest.approx([0.2, 0.8 / 3, 2.2 / 3])


def test_a_report_is_tables_a_figure_and_sentences(results, tmp_path):
    found = report(StudyFolder(tmp_path, {"study": "x"}), "ablation", results, [LABEL, "depth", "width"])
    written = {path.name for path in tmp_path.iterdir()}
    assert {"results.csv", "ablation.csv", "ablation-pairs.csv", "ablation.png", "ablation-summary.txt"} <= written
    assert found.table["spearman"].tolist() == pytest.approx([0.2, 0.8 / 3, 2.2 / 3, 0.2, 2.3 / 3, 2.9 / 3])
    assert len(found.findings) == 1
