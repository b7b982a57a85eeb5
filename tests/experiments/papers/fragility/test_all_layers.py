from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from bayes_influence.experiments.papers.fragility.all_layers import (
    LEAST_GAP,
    agreement_findings,
    ceiling_findings,
    depth_and_width,
    gap_findings,
    gap_sizes,
    gaps_figure,
    grid_figure,
    pair_findings,
    reproduce_all_layers,
    scheme_pairs,
    trend_findings,
)
from bayes_influence.experiments.papers.fragility.grid_cells import AllLayersStudy
from bayes_influence.experiments.papers.means import mean_table
from bayes_influence.experiments.store.drawings import stored_drawings

NETWORK = ["activation", "depth", "width", "scheme"]


@pytest.fixture
def results():
    """Eight networks of two schemes, of which the second agrees better everywhere, and less with depth."""
    rows = [
        {"depth": depth, "width": 5, "scheme": scheme, "seed": seed, "spearman": value - depth / 100 + seed / 1000}
        for scheme, value in (("none", 0.5), ("weight-decay", 0.9))
        for depth in (1, 2, 4, 8)
        for seed in range(2)
    ]
    table = pd.DataFrame(rows).assign(activation="tanh", truth="cold", slope=1.0, train_accuracy=1.0)
    return table.assign(pearson=table["spearman"] ** 2)


def test_schemes_are_paired_over_sizes_and_seeds(results):
    pairs = scheme_pairs(results)
    row = pairs[pairs["value"] == "spearman"].iloc[0]
    assert (row["first"], row["second"], row["n"]) == ("none", "weight-decay", 8)
    assert row["mean_difference"] == pytest.approx(-0.4)
    assert row["p_holm"] == pytest.approx(2 / 2**8)
    (sentence,) = pair_findings(pairs)
    assert sentence.startswith(
        "tanh, against retraining from scratch: 1 of 1 pairs of schemes differ (Wilcoxon, Holm, 8"
    )
    assert "none minus weight-decay -0.4 (-0.4 … -0.4, p 7.8e-03)" in sentence


def test_a_single_scheme_has_no_pair(results):
    pairs = scheme_pairs(results[results["scheme"] == "none"])
    assert pair_findings(pairs) == []


def test_trends_over_depth_are_said_with_their_sign(results):
    trends = depth_and_width(results)
    assert set(trends["axis"]) == {"depth"}
    assert (trends["effect_size"] < 0).all()
    (sentence,) = trend_findings(trends)
    assert "in 2 of 2 tests: tanh, none, depth, against retraining from scratch: tau -0.9" in sentence


def test_gaps_are_in_effects_of_the_first_stage():
    rows = [
        {"seed": seed, "gap": gap, "loss_difference": difference, "loss_effect": effect}
        for seed in range(2)
        for gap, difference, effect in (("warm-start", 0.1, 0.5), ("warm-start", 0.3, 0.3), ("proximity", 0.8, 9.0))
    ]
    gaps = pd.DataFrame(rows).assign(activation="tanh", depth=1, width=5, scheme="none")
    sizes = gap_sizes(gaps).set_index("gap")["size"]
    assert sizes["warm-start"] == pytest.approx(0.5)
    assert sizes["proximity"] == pytest.approx(2.0)
    assert gap_findings(gap_sizes(gaps)) == [
        "tanh, none: largest gap, in effects of a removal: depth 1, width 5 proximity 2 (2 … 2)."
    ]


def test_sentences_have_numbers_intervals_and_networks(results):
    over = mean_table(results, ["activation", "truth", "scheme"], ["spearman", "pearson", "slope"])
    (sentence,) = agreement_findings(over)
    assert sentence.startswith("tanh, all layers, against retraining from scratch: signed Spearman none 0.463 (")
    assert sentence.endswith("(8 networks).")
    ceilings = pd.DataFrame({"activation": "tanh", "repeated": "other seeds", "scheme": "none"}, index=range(2))
    (said,) = ceiling_findings(ceilings.assign(spearman=[0.8, 0.9], pearson=1.0))
    assert "trainings from scratch, other seeds: none 0.85 (" in said
    assert ceiling_findings(pd.DataFrame()) == []


def test_the_figures_have_a_panel_per_truth_and_per_scheme(results):
    summary = mean_table(results, [*NETWORK, "truth"], ["spearman"])
    drawn = grid_figure(summary, pd.DataFrame())
    assert [axes.get_title() for axes in drawn.axes] == ["tanh, against retraining from scratch"]
    sizes = results[NETWORK].drop_duplicates().assign(gap="solver", size=1e-14)
    figure = gaps_figure(sizes)
    assert [axes.get_title() for axes in figure.axes] == ["tanh, none", "tanh, weight-decay"]
    assert np.allclose(figure.axes[0].lines[0].get_ydata(), LEAST_GAP)


@pytest.mark.slow
def test_the_study_writes_tables_figures_and_sentences(tmp_path):
    study = AllLayersStudy(
        scale="quick",
        only=("1x5",),
        epochs=30,
        refit_epochs=5,
        removals=3,
        schemes=("swa",),
        activations=("selu",),
        orders=2,
        test_example=83,
    )
    found = reproduce_all_layers(study, tmp_path, 1, progress=False)
    assert set(found.table["truth"]) == {"warm", "cold"}
    parts = ("schemes", "ceilings", "gaps")  # a single network has neither pairs nor trends
    assert all((tmp_path / f"all-layers-{part}.csv").exists() for part in parts)
    assert set(stored_drawings(tmp_path)) == {"all-layers", "all-layers-gaps"}
    assert (tmp_path / "all-layers-summary.txt").read_text().splitlines() == list(found.findings)
    with pytest.raises(ValueError, match="epochs is 30 there and 40 here"):
        reproduce_all_layers(replace(study, epochs=40), tmp_path, 1, progress=False)
