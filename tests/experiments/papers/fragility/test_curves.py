from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from bayes_influence.experiments.papers.fragility.curves import (
    CurveStudy,
    curve_findings,
    curve_metrics,
    rank_figure,
    rank_findings,
    rank_metrics,
    reproduce_curves,
)

SMALL = CurveStudy(
    scale="quick",
    epochs=60,
    refit_epochs=12,
    removals=6,
    schemes=("weight-decay", "none"),
    test_example=83,
    network="digits FC-8",
    image_epochs=2,
    train_examples=200,
    shown=2,
)


@pytest.fixture(scope="module", params=["corrected", "as-published"])
def folder(request, tmp_path_factory):
    """Both figures of one mode, with what they came to."""
    path = tmp_path_factory.mktemp("curves") / request.param
    study = replace(SMALL, mode=request.param)
    found = {name: reproduce_curves(name, study, path, 1, progress=False) for name in ("fig4", "fig5")}
    return path, request.param, found


def test_both_figures_have_both_settings(folder):
    path, _, found = folder
    assert {"fig4.png", "fig5.png", "fig4-metrics.csv", "fig5-summary.txt"} <= {one.name for one in path.iterdir()}
    expected = [("iris", "weight-decay"), ("iris", "none"), ("digits FC-8", "weight-decay")]
    for one in found.values():
        assert list(one.table[["setting", "scheme"]].itertuples(index=False, name=None)) == expected
        assert len(one.findings) == 3


def test_exact_answers_stand_where_there_is_one(folder):
    _, mode, found = folder
    errors = found["fig5"].table.set_index(["setting", "scheme"])["error"]
    assert np.isnan(errors["iris", "none"])
    assert np.isnan(errors["iris", "weight-decay"]) == (mode == "as-published")
    assert np.isnan(errors["digits FC-8", "weight-decay"]) == (mode == "as-published")


def test_a_folder_of_other_images_is_refused(folder):
    path, mode, _ = folder
    with pytest.raises(ValueError, match="belongs to another configuration: images is"):
        reproduce_curves("fig4", replace(SMALL, mode=mode, image_epochs=3), path, 1, progress=False)


def test_a_folder_says_how_many_images_are_removed():
    """As published 25 rows of Iris, and 40 images, are removed where nothing is said."""
    unsaid = CurveStudy(mode="as-published", scale="quick").configuration()
    said = CurveStudy(mode="as-published", scale="quick", removals=25).configuration()
    assert unsaid["removals"] == said["removals"] == 25
    assert [one["images"][0]["removals"] for one in (unsaid, said)] == [40, 25]


def test_iris_can_stand_alone():
    assert list(replace(SMALL, network="none").cells()) == ["iris"]
    assert list(SMALL.cells()) == ["iris", "network=digits_FC-8"]
    with pytest.raises(ValueError, match="unknown network 'FC'; known: none, digits FC-8"):
        replace(SMALL, network="FC")


def test_every_setting_has_a_panel_whatever_schemes_the_others_have():
    """Iris without weight decay beside images with it, and images of a Bayesian network beside Iris with it."""
    points = pd.DataFrame({"estimated": np.arange(1.0, 6.0), "true": np.arange(1.0, 6.0)})
    schemes = (("iris", "none"), ("images", "weight-decay"), ("images", "none"), ("Bayesian images", "bnn"))
    differences = pd.concat([points.assign(setting=setting, scheme=scheme) for setting, scheme in schemes])
    figure = rank_figure(differences, rank_metrics(differences))
    titles = [axes.get_title().splitlines()[0] for axes in figure.axes]
    assert titles == ["iris, none", "images, weight-decay", "Bayesian images, bnn"]


def test_a_miss_relation_is_said_beside_the_ranks():
    estimated = np.arange(1.0, 21.0)
    true = np.where(np.arange(20) == 19, 1000.0, estimated / 100)
    metrics = rank_metrics(pd.DataFrame({"setting": "s", "scheme": "w", "estimated": estimated, "true": true}))
    (sentence,) = rank_findings(metrics)
    assert sentence.startswith("s, w, 20 removals: Spearman 1.000, Pearson 0.")
    assert sentence.endswith(": a miss-relation.")


def test_curves_are_measured_against_control_fit_and_exact_answer():
    curves = pd.DataFrame(
        {"refit": [0, 0, 1, 1, 2, 2], "epoch": [0, 5] * 3, "loss": [1.0, 1.1, 1.0, 1.5, 1.0, 0.8]}
    ).assign(setting="s", scheme="w")
    ends = pd.DataFrame({"refit": [0, 1, 2], "exact": [1.1, 1.4, 0.8], "before": 1.0}).assign(setting="s", scheme="w")
    row = curve_metrics(curves, ends).iloc[0]
    assert row[["drift", "effect", "rise", "error"]].tolist() == pytest.approx([0.1, 0.35, 0.5, 0.1])
    (sentence,) = curve_findings(curve_metrics(curves, ends))
    assert "moves the test loss by 0.1; a removal moves it by 0.35 against the control" in sentence
    assert sentence.endswith("refits end 0.1 from it.")
