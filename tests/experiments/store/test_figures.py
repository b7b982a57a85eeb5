import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from bayes_influence.experiments.store.drawings import stored_drawings
from bayes_influence.experiments.store.figures import (
    DPI,
    clear_legends,
    draw_against_truth,
    encoded,
    figure_style,
    save_figure,
    signed_log_axis,
)
from bayes_influence.experiments.store.folder import StudyFolder


def test_zero_and_negative_values_have_a_place_on_the_signed_axis():
    axes = Figure().subplots()
    signed_log_axis(axes, np.array([-2.0, 0.0, 1e-3, 50.0, np.nan]))
    transform = axes.transData
    heights = [transform.transform((0, value))[1] for value in (-2.0, 0.0, 1e-3, 50.0)]
    assert heights == sorted(heights)
    assert np.isfinite(heights).all()


def test_figures_are_written_whole_in_both_formats_and_are_reproducible(drawing, tmp_path):
    folder = StudyFolder(tmp_path / "study", {"a": 1})
    contents = []
    for _ in range(2):
        save_figure(drawing, folder, "fig")
        contents.append([(folder.path / f"fig.{kind}").read_bytes() for kind in ("png", "pdf")])
    assert contents[0] == contents[1]
    again = stored_drawings(folder.path)["fig"]
    assert encoded(again.figure(), "png", DPI) == contents[0][0]


def test_an_axis_of_zeros_alone_is_linear_up_to_one():
    axes = Figure().subplots()
    signed_log_axis(axes, np.zeros(3))
    assert axes.get_yscale() == "symlog"
    assert axes.yaxis.get_transform().linthresh == 1.0


def test_a_line_at_zero_is_drawn_only_where_values_reach_it():
    axes, other = Figure().subplots(1, 2)
    signed_log_axis(axes, np.array([-1.0, 2.0]))
    signed_log_axis(other, np.array([1.0, 2.0]))
    assert [len(axes.get_lines()), len(other.get_lines())] == [1, 0]


def test_the_style_holds_within_its_block_alone():
    before = mpl.rcParams["font.size"]
    with figure_style(17):
        assert mpl.rcParams["font.size"] == 17
        assert not mpl.rcParams["axes.spines.top"]
    assert mpl.rcParams["font.size"] == before


def test_the_diagonal_spans_estimates_and_truths():
    axes = Figure().subplots()
    draw_against_truth(axes, np.array([0.3, -2.0, 5.0]), "scheme")
    (line,) = axes.get_lines()
    assert line.get_xdata().tolist() == line.get_ydata().tolist() == [-2.0, 5.0]
    assert axes.get_title() == "scheme"


def legend_and_axes(draw):
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    draw(axes)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    legend = axes.legend(["one"], loc="center")
    clear_legends(figure)
    figure.draw_without_rendering()
    return legend.get_window_extent(), axes.get_window_extent()


@pytest.mark.parametrize(
    "draw",
    [
        lambda axes: axes.plot([0, 1], [0, 1]),
        lambda axes: axes.scatter([0.5], [0.5]),
        lambda axes: axes.errorbar([0.5], [0.1], yerr=[[0.05], [0.8]]),
        lambda axes: axes.bar([0.5], [0.9]),
    ],
    ids=["line", "scatter", "error bar", "bar"],
)
def test_a_legend_over_what_is_drawn_goes_beside_the_axes(draw):
    legend, axes = legend_and_axes(draw)
    assert legend.x0 >= axes.x1
    assert legend.x1 <= 6 * 100


@pytest.mark.parametrize(
    "draw",
    [lambda axes: axes.plot([0, 1], [0.9, 0.95]), lambda axes: axes.scatter([0.1], [0.1])],
    ids=["line", "point"],
)
def test_a_legend_with_room_stays_where_it_is(draw):
    def drawn(axes):
        draw(axes)
        axes.axhline(0.5)  # across the axes, which a legend may lie on

    legend, axes = legend_and_axes(drawn)
    assert axes.x0 < legend.x0 < legend.x1 < axes.x1
