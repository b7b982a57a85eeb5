import pandas as pd

from bayes_influence.experiments.papers.groups.network_figure import COLOURS, DRAWN, network_figure
from bayes_influence.experiments.papers.groups.orders import EQUATION_17, ESTIMATORS, FIRST, NEWTON
from bayes_influence.experiments.papers.groups.settings import KINDS

KEYS = {"condition": "tanh", "damping": 0.01}


def test_every_stage_has_its_panel_and_what_is_not_predicted_a_dash():
    points = pd.DataFrame(
        [
            {**KEYS, "truth": truth, "estimator": name, "true": true, "estimated": scale * true}
            for truth in DRAWN
            for name, scale in ((FIRST, 0.5), (EQUATION_17, 0.9))
            for true in (-1.0, 2.0)
        ]
    )
    summary = pd.DataFrame(
        [
            {**KEYS, "truth": truth, "kind": kind, "estimator": name, "pearson": 0.25 if kind == "random" else 0.9}
            for truth in DRAWN
            for kind in KINDS
            for name in ESTIMATORS
            if name != NEWTON
        ]
    )
    figure = network_figure(points, summary)
    panels, tables = figure.axes[: len(DRAWN)], figure.axes[len(DRAWN) :]
    assert [axes.get_title() for axes in panels] == [f"tanh: {truth}" for truth in DRAWN]
    first, second, diagonal = panels[0].lines
    assert (first.get_color(), first.get_ydata().tolist()) == (COLOURS[FIRST], [-0.5, 1.0])
    assert (second.get_color(), second.get_ydata().tolist()) == (COLOURS[EQUATION_17], [-0.9, 1.8])
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata()) == [-1.0, 2.0]
    for axes, value, ink in zip(tables, ("0.25", "0.90"), ("black", "white"), strict=True):
        said = [(text.get_text(), text.get_color()) for text in axes.texts]
        assert said == len(DRAWN) * [(value, ink) if name != NEWTON else ("-", "black") for name in ESTIMATORS]
