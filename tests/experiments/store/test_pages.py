"""Figures for another page: their size, letters, lines and files."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from bayes_influence.experiments.store.drawings import DRAWINGS
from bayes_influence.experiments.store.pages import PAGES, Page, page_of, redraw


@pytest.fixture
def folder(drawing, tmp_path):
    (tmp_path / "study" / DRAWINGS).mkdir(parents=True)
    for name in ("one", "two"):
        (tmp_path / "study" / DRAWINGS / f"{name}.safetensors").write_bytes(drawing.encode())
    return tmp_path / "study"


def plain():
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [1, 3], "o-", linewidth=2, markersize=6)
    axes.scatter([0.5], [2], s=40)
    axes.set_title("title", fontsize=20)
    axes.set_xlabel("label", fontsize=10)
    axes.tick_params(labelsize=10)
    return figure


def test_size_letters_lines_and_markers_follow_the_page():
    figure = Page(width=4.0, font_size=5.0, font="DejaVu Serif").fit(plain())
    (axes,) = figure.get_axes()
    assert figure.get_size_inches().tolist() == [4.0, 2.0]
    assert (axes.title.get_fontsize(), axes.xaxis.label.get_fontsize()) == (10.0, 5.0)
    figure.canvas.draw()
    assert {tick.get_fontsize() for tick in axes.get_xticklabels()} == {5.0}
    assert {text.get_fontfamily()[0] for text in figure.findobj(Text) if text.get_text()} == {"DejaVu Serif"}
    (line,) = axes.get_lines()
    assert (line.get_linewidth(), line.get_markersize()) == (1.0, 3.0)
    assert np.asarray(axes.collections[0].get_sizes()).tolist() == [10.0]


def test_what_is_not_said_stays():
    figure = Page().fit(plain())
    assert figure.get_size_inches().tolist() == [8.0, 4.0]
    assert figure.get_axes()[0].title.get_fontsize() == 20
    assert Page(height=1.0).fit(plain()).get_size_inches().tolist() == [2.0, 1.0]
    assert Page(width=3.0, height=5.0).fit(plain()).get_size_inches().tolist() == [3.0, 5.0]


def test_what_was_drawn_tall_is_cut_to_a_screen():
    tall = Figure(figsize=(4, 8))
    tall.subplots()
    assert PAGES["talk"].fit(tall).get_size_inches().tolist() == [12.0, 6.75]
    assert PAGES["talk"].fit(plain()).get_size_inches().tolist() == [12.0, 6.0]
    again = page_of("talk", height=9.0).fit(plain())
    assert again.get_size_inches().tolist() == [12.0, 9.0]


def test_titles_that_are_longer_than_their_axes_are_broken():
    figure = Figure(figsize=(10, 5), layout="constrained")
    for axes in figure.subplots(1, 3):
        axes.set_title("a title of many words that is longer than its axes are wide")
        axes.set(xlabel="short", ylabel="a name of an axis that is longer than the axis is high, as names may be")
    figure.suptitle("all of it, in as many words as it takes to be longer than the figure, " * 2)
    Page(font_size=9.0).fit(figure).draw_without_rendering()
    for axes in figure.get_axes():
        box = axes.get_window_extent()
        assert axes.title.get_window_extent().width < 1.25 * box.width
        assert axes.yaxis.label.get_window_extent().height < 1.25 * box.height
        assert "\n" not in axes.get_xlabel()
        assert axes.get_title().replace("\n", " ") == "a title of many words that is longer than its axes are wide"
    assert "\n" in figure.get_suptitle()


def test_all_figures_or_those_asked_for_are_written(folder, tmp_path):
    before = sorted(folder.rglob("*"))
    files = redraw(folder, Page(kinds=("svg", "png"), width=3.0, dpi=50), tmp_path / "out")
    assert [file.name for file in files] == ["one.svg", "one.png", "two.svg", "two.png"]
    assert files[0].read_bytes().startswith(b"<?xml")
    assert files[1].read_bytes().startswith(b"\x89PNG")
    first = files[0].read_bytes()
    assert redraw(folder, Page(kinds=("svg",), width=3.0), tmp_path / "out", ["one"]) == files[:1]
    assert files[0].read_bytes() == first  # no date, no random names
    assert sorted(folder.rglob("*")) == before


def test_letters_without_room_are_said(folder, tmp_path, caplog):
    redraw(folder, Page(kinds=("png",), width=1.0, font_size=40.0, dpi=30), tmp_path / "out", ["two"])
    assert "two: its letters leave no room for what they stand at; take smaller ones (font_size, --font-size)" in (
        caplog.text
    )


def test_pages_by_name_with_changes():
    assert page_of() == Page()
    assert page_of("paper") == PAGES["paper"]
    assert page_of("talk", width=5.0, dpi=None).width == 5.0
    assert page_of("talk", width=5.0, dpi=None).dpi == PAGES["talk"].dpi
    with pytest.raises(ValueError, match="unknown page 'poster'; known: paper, talk"):
        page_of("poster")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"width": 0.0}, "width must be positive, got 0.0"),
        ({"height": -1.0}, "height must be positive, got -1.0"),
        ({"most_height": 0.0}, "most_height must be positive, got 0.0"),
        ({"font_size": 0.0}, "font_size must be positive"),
        ({"dpi": 0}, "dpi must be positive"),
        ({"dpi": 5000}, "dpi must be at most 1200, got 5000"),
        ({"width": 1e9}, "width must be at most 100 inches, got 1000000000.0"),
        ({"height": 200.0}, "height must be at most 100 inches"),
        ({"kinds": ("gif",)}, "unknown kind gif; known: png, pdf, svg"),
        ({"kinds": ()}, r"unknown kind \(none given\)"),
        ({"font": "Nope"}, "no font 'Nope' is installed; there are "),
    ],
)
def test_pages_that_are_none(wrong, message):
    with pytest.raises(ValueError, match=message):
        Page(**wrong)


def test_a_file_is_no_folder_for_figures(folder, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(OSError, match=r"out cannot be a folder for the figures \(File exists\); name another"):
        redraw(folder, Page(), tmp_path / "out")


def test_a_figure_that_is_not_there(folder, tmp_path):
    with pytest.raises(ValueError, match="has no figure 'three'; it has one, two"):
        redraw(folder, Page(), tmp_path / "out", ["three"])
    assert not (tmp_path / "out").exists()
