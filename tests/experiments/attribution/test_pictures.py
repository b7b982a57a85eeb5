import pandas as pd
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from bayes_influence.data.dataset import Dataset
from bayes_influence.data.tables import hold_out, load_table
from bayes_influence.experiments.attribution.pictures import influence_figure, is_pictured
from bayes_influence.experiments.store.pages import page_of

MIXED = Dataset(torch.rand(8, 1, 4, 4), torch.arange(8) % 2, torch.arange(8))


def ranking(test_id, top=3):
    test = {"test": 0, "test_id": test_id, "test_target": "1", "predicted_target": "0", "test_loss": 0.7}
    rows = [
        {**test, "kind": kind, "rank": rank, "train_id": rank, "train_target": str(rank % 2), "removal": sign * 2e-4}
        for kind, sign in (("helpful", 1), ("harmful", -1))
        for rank in range(1, top + 1)
    ]
    return pd.DataFrame(rows)


def test_images_are_shown_with_their_most_helpful_and_harmful_ones():
    generator = torch.Generator().manual_seed(0)
    train = Dataset(torch.rand(6, 3, 4, 4, generator=generator), torch.arange(6) % 2, torch.arange(6))
    test = Dataset(torch.rand(1, 3, 4, 4, generator=generator), torch.tensor([1]), torch.tensor([6]))
    figure = influence_figure(ranking(6), train, test)
    assert len(figure.axes) == 1 + 2 * 3
    assert figure.axes[0].get_title() == "test 0: 1"
    assert figure.axes[0].get_xlabel() == "id 6\npredicted 0\nloss 0.7"
    assert [axes.get_title() for axes in figure.axes[1:4]] == ["1", "0", "1"]
    assert [axes.get_xlabel() for axes in figure.axes[1:]] == [
        f"id {rank}\n{sign}2.0e-04" for sign in "+-" for rank in (1, 2, 3)
    ]


def test_dollars_in_the_name_of_a_class_are_drawn_as_they_are():
    named = ranking(6).assign(test_target="$x^{$", predicted_target="$_{$", train_target="$\\frac{$")
    figure = influence_figure(named, MIXED, MIXED)
    FigureCanvasAgg(figure).draw()
    assert figure.axes[0].get_title() == "test 0: $x^{$"


@pytest.mark.parametrize("top", [1, 3, 5])
@pytest.mark.parametrize("page", [None, "talk"])
def test_headings_stay_in_the_figure_and_clear_of_its_images(top, page):
    figure = influence_figure(ranking(6, top), MIXED, MIXED, "loss of the predicted class")
    canvas = FigureCanvasAgg(figure)
    page_of(page).fit(figure)
    canvas.draw()
    for part in figure.subfigs[1].subfigs:
        (words,) = (text for text in part.texts if "removal changes" in text.get_text())
        box = words.get_window_extent()
        assert figure.bbox.x0 <= box.x0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(axes.get_tightbbox()) for axes in figure.axes)


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        ("loss", "▲ most helpful: removal changes the test loss by ..."),
        ("loss of the predicted class", "▲ holds the loss of the predicted class down: removal changes it by ..."),
        (
            "prediction (in standard deviations)",
            "▲ holds the prediction down: removal changes the test prediction (in standard deviations) by ...",
        ),
    ],
)
def test_headings_say_what_removal_changes(measured, words):
    figure = influence_figure(ranking(6, 1), MIXED, MIXED, measured)
    assert figure.subfigs[1].subfigs[0].get_suptitle() == words


def test_all_ranked_images_are_shown_in_as_many_lines_as_they_take():
    data = Dataset(torch.rand(30, 1, 4, 4), torch.arange(30) % 2, torch.arange(30))
    rows = ranking(6)
    every = [rows.query("rank == 1").assign(rank=rank, train_id=rank) for rank in range(1, 13)]
    figure = influence_figure(pd.concat(every), data, data)
    shown = [axes.get_xlabel().split("\n")[0] for axes in figure.axes[1:] if axes.get_visible()]
    assert shown == [f"id {rank}" for rank in range(1, 13)] * 2


def test_digits_are_shown_as_the_images_that_they_are():
    split = hold_out(load_table("digits"), seed=0)
    rows = ranking(int(split.test.ids[0])).assign(train_id=int(split.train.ids[0]))
    figure = influence_figure(rows, split.train, split.test)
    (shown,) = figure.axes[0].get_images()
    raw = load_table("digits").at(split.test.ids[0]).inputs.reshape(8, 8)
    assert torch.allclose(torch.as_tensor(shown.get_array().data), (raw / raw.max()).float())


def test_what_cannot_be_drawn_is_known_and_refused():
    iris, digits = load_table("iris"), load_table("digits")
    assert (is_pictured(iris), is_pictured(digits)) == (False, True)
    with pytest.raises(ValueError, match="iris: example 5 is no image and cannot be drawn"):
        influence_figure(ranking(5), iris, iris)


def test_labels_other_than_the_test_images_are_marked():
    data = Dataset(torch.rand(7, 1, 4, 4), torch.arange(7) % 2, torch.arange(7))
    titles = [axes.title for axes in influence_figure(ranking(6), data, data).axes[1:]]
    assert [title.get_color() for title in titles] == ["black", "tab:purple", "black"] * 2
    assert [title.get_fontstyle() for title in titles] == ["normal", "italic", "normal"] * 2
