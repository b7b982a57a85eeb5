import pandas as pd
from matplotlib.figure import Figure

from bayes_influence.experiments.audit.report import _draw_gaps, audit_figure, printed_audit


def test_a_report_holds_every_part(found):
    titles = [str(table.title) for table in printed_audit(found)]
    assert titles == [
        "estimated change of the test loss against",
        "where retraining and estimate part",
        "curvature in the selected parameters",
        "where in the spectrum the scores come from",
    ]
    assert [table.row_count for table in printed_audit(found)] == [6, 5, 2, 4]
    figure = audit_figure(found, "a network")
    assert found.verdict.sentence in figure.get_suptitle().replace("\n", " ")
    assert max(map(len, figure.get_suptitle().splitlines())) <= 140
    assert all(axes.get_xlabel() and axes.get_ylabel() for axes in figure.axes if axes.get_visible())


def test_networks_are_told_apart_by_marker_as_well_as_by_colour(found):
    scattered = audit_figure(found, "a network").axes[2].collections
    looks = {(part.get_facecolor().tobytes(), part.get_paths()[0].vertices.tobytes()) for part in scattered}
    assert len(looks) == found.effects["seed"].nunique() == 2
    assert len({look for _, look in looks}) == 2


def test_values_below_the_axis_are_marked_with_their_number():
    gaps = pd.DataFrame({"gap": ["a"] * 3 + ["b"] * 2, "output_distance": [1.0, 0.0, 1e-12, 1.0, 0.5]})
    axes = Figure().subplots()
    _draw_gaps(axes, gaps, "output_distance", "distance")
    assert [text.get_text() for text in axes.texts] == ["2 below"]
    (mark,) = [line for line in axes.lines if line.get_marker() == "v"]
    assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (0, axes.get_ylim()[0])
