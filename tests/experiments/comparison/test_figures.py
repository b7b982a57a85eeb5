import numpy as np
import pandas as pd

from bayes_influence.experiments.comparison.figures import (
    SHAPES,
    comparison_figure,
    damping_figure,
    sizes_figure,
)


def _summary():
    rows = [
        {
            "depth": depth, "width": width, "scheme": scheme, "estimator": "influence",
            "value": value, "value_low": value - 1, "value_high": value + 1,
        }
        for depth, width in [(1, 5), (2, 5), (1, 8)]
        for scheme, value in [("none", -3.0), ("bnn", 40.0)]
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_a_scatter_per_scheme_and_both_ends_of_the_spectrum(compared):
    figure = comparison_figure(compared.summary, compared.differences, "title")
    axes = [axes for axes in figure.axes if axes.get_visible()]
    assert len(axes) == 2 + 6
    assert {axes.get_title() for axes in axes} >= {"none\n(2 seeds)", "bnn (variational)\n(2 seeds)"}
    assert len(axes[2].collections[0].get_offsets()) == 16


def test_every_axis_has_its_name_and_every_scheme_a_marker_of_its_own(compared):
    upper = comparison_figure(compared.summary, compared.differences, "title").axes[:2]
    assert [axes.get_ylabel() for axes in upper] == ["correlation", "eigenvalue"]
    for axes in (upper[1], *damping_figure(compared.damping, "title").axes):
        assert axes.get_xlabel()
        assert axes.get_ylabel()
    assert len(set(SHAPES.values())) == len(SHAPES)
    lines = {line.get_label(): line for line in damping_figure(compared.damping, "title").axes[0].get_lines()}
    assert lines["weight-decay"].get_marker() != lines["weight-decay+swa"].get_marker()


def test_it_is_as_wide_as_a_screen_for_any_number_of_schemes(compared):
    for count in range(1, 13):
        parts = [compared.differences.assign(scheme=f"scheme {number}") for number in range(count)]
        one = pd.concat([part[part["estimator"] == "influence"] for part in parts])
        width, height = comparison_figure(compared.summary, one, "title").get_size_inches()
        assert 1.25 < width / height < 2.7


def test_damping_is_drawn_for_every_scheme_and_statistic(compared):
    figure = damping_figure(compared.damping, "title")
    assert [axes.get_title() for axes in figure.axes] == ["spearman", "pearson", "slope"]
    lines = {line.get_label(): line for line in figure.axes[2].get_lines()}
    drawn = lines["bnn (variational)"].get_ydata()
    rows = compared.damping.query("scheme == 'bnn' and estimator == 'variational'")
    assert np.allclose(drawn, rows.groupby("delta")["slope"].mean())


def test_the_slopes_axis_reaches_the_lowest_of_every_series():
    rows = [
        {"scheme": scheme, "estimator": "influence", "delta": delta, "spearman": 0.5, "pearson": 0.5, "slope": slope}
        for scheme, slope in (("none", -40.0), ("weight-decay", 1.0))
        for delta in (0.1, 1.0)
    ]
    assert damping_figure(pd.DataFrame(rows), "title").axes[2].get_ylim()[0] == -40


def test_both_series_of_sizes_share_an_axis_that_shows_negative_values():
    figure = sizes_figure(_summary(), "value", "eigenvalue", logarithmic=True)
    left, right = figure.axes
    assert (left.get_xlabel(), right.get_xlabel()) == ("width", "depth")
    assert left.get_yscale() == "symlog"
    low, high = left.get_ylim()
    assert low < -3
    assert high > 40
    drawn = np.concatenate([line.get_ydata() for line in left.get_lines()])
    assert -3.0 in drawn
