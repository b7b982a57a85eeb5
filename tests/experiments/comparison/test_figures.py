import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bayes_influence.experiments.comparison.figures import (
    comparison_figure,
    damping_figure,
    sizes_figure,
)
from bayes_influence.experiments.store.figures import save_figure, signed_log_axis
from bayes_influence.experiments.store.folder import StudyFolder


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
    assert {axes.get_title() for axes in axes} >= {"none (2 seeds)", "bnn, variational (2 seeds)"}
    assert len(axes[2].collections[0].get_offsets()) == 16


def test_damping_is_drawn_for_every_scheme_and_statistic(compared):
    figure = damping_figure(compared.damping, "title")
    assert [axes.get_title() for axes in figure.axes] == ["spearman", "pearson", "slope"]
    lines = {line.get_label(): line for line in figure.axes[2].get_lines()}
    drawn = lines["bnn, variational"].get_ydata()
    rows = compared.damping.query("scheme == 'bnn' and estimator == 'variational'")
    assert np.allclose(drawn, rows.groupby("delta")["slope"].mean())


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


def test_zero_and_negative_values_have_a_place_on_the_signed_axis():
    axes = Figure().subplots()
    signed_log_axis(axes, np.array([-2.0, 0.0, 1e-3, 50.0, np.nan]))
    transform = axes.transData
    heights = [transform.transform((0, value))[1] for value in (-2.0, 0.0, 1e-3, 50.0)]
    assert heights == sorted(heights)
    assert np.isfinite(heights).all()


def test_figures_are_written_whole_in_both_formats_and_are_reproducible(tmp_path):
    folder = StudyFolder(tmp_path / "study", {"a": 1})
    contents = []
    for _ in range(2):
        save_figure(sizes_figure(_summary(), "value", "value"), folder, "fig")
        contents.append([(folder.path / f"fig.{kind}").read_bytes() for kind in ("png", "pdf")])
    assert contents[0] == contents[1]
