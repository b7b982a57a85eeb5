"""The training examples that shaped a prediction, as a person sees them."""

import base64
import io
import re
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

import bayes_influence as bi
from bayes_influence.influence.shown import both_ends, draw_picture


@pytest.fixture(scope="module")
def pictures():
    generator = torch.Generator().manual_seed(0)
    data = bi.Dataset(
        torch.rand(30, 1, 6, 6, generator=generator, dtype=torch.float64),
        torch.arange(30) % 2,
        torch.arange(30) + 100,
        class_names=("even", "<odd>"),
    )
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 2)).double()
    objective = bi.Objective(network, bi.CrossEntropy(), bi.WeightDecay(0.1), parameters="last-layer")
    return bi.Influence(bi.minimum_of(objective, data), data, damping=0.0).on_loss(data.select([4, 5]))


@pytest.fixture(scope="module")
def rows():
    table = bi.load_table("iris").to(dtype=torch.float64)
    objective = bi.Objective(nn.Linear(4, 3).double(), bi.CrossEntropy(), bi.WeightDecay(0.1))
    return bi.Influence(bi.minimum_of(objective, table), table, damping=0.0).on_loss(table.select([70]))


def test_both_ends_of_the_ranking_with_the_removal_effects_of_their_ids(pictures):
    shown = pictures.show(3)
    assert [test.id for test in shown.tests] == [104, 105]
    removal = dict(zip(pictures.train_ids.tolist(), pictures.removal[1].tolist(), strict=True))
    ranking = sorted(removal, key=removal.get)
    assert [one.id for one in shown.tests[1].helpful] == ranking[:-4:-1]
    assert [one.id for one in shown.tests[1].harmful] == ranking[:3]
    assert all(one.removal == removal[one.id] for one in shown.tests[1].helpful + shown.tests[1].harmful)
    assert shown.tests[1].helpful[0].removal > 0 > shown.tests[1].harmful[0].removal
    train = pictures.examples[0]
    for one in shown.tests[0].harmful:
        assert torch.equal(one.appearance.picture, train.at(one.id).inputs[0])
        assert one.appearance.label == train.class_names[int(train.at(one.id).targets)]


def test_printed_it_names_every_id_its_effect_and_what_it_stands_on(rows):
    shown = rows.show(2)
    text = str(shown)
    assert "test 70: versicolor: " in text
    assert "gradient norm of J" in text
    for kind, sign in (("helpful", "▲"), ("harmful", "▼")):
        assert f"{sign} most {kind}" in text
        for one in getattr(shown.tests[0], kind):
            assert re.search(rf"\b{one.id}  {re.escape(f'{one.removal:+.3e}')}  {one.appearance.label}: ", text)
    assert repr(shown) == "Shown(1 test examples)"


def test_a_page_holds_the_pictures_and_escapes_the_words(pictures):
    page = pictures.show(2).html()
    assert "<odd>" not in page
    assert "&lt;odd&gt;" in page
    assert 'src="http' not in page
    assert "<link" not in page
    assert "<script" not in page
    drawn = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(drawn) == 2 * (1 + 4)
    image = matplotlib.image.imread(io.BytesIO(base64.b64decode(drawn[0])), format="png")[..., 0]
    first = pictures.examples[1].inputs[0, 0].numpy()
    assert image.shape == (6, 6)
    assert np.corrcoef(image.ravel(), first.ravel())[0, 1] < -0.99  # dark where the numbers are large
    assert pictures.show(2)._repr_html_() in page


@pytest.mark.parametrize("suffix", [".html", ".txt", ".png", ".pdf", ".svg"])
@pytest.mark.parametrize("kind", ["pictures", "rows"])
def test_it_is_written_by_its_suffix(kind, suffix, request, tmp_path):
    target = tmp_path / f"shown{suffix}"
    request.getfixturevalue(kind).show(2).save(target)
    starts = {".html": b"<!doctype", ".txt": b"change", ".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}
    assert target.read_bytes().startswith(starts[suffix])
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_a_figure_shows_every_ranked_example_with_its_id_and_a_sign(pictures, rows):
    titles = [axes.get_title() for axes in pictures.show(2).figure().axes]
    shown = pictures.show(2).tests[0]
    assert titles[0] == "test 104\neven"
    assert titles[1] == f"▲ {shown.helpful[0].id}\n{shown.helpful[0].appearance.label}"
    assert titles[4].startswith(f"▼ {shown.harmful[1].id}\n")
    below = [axes.get_xlabel() for axes in pictures.show(2).figure().axes]
    assert below[0].endswith("\nloss:")
    assert below[1] == f"{shown.helpful[0].removal:+.1e}"
    bars = rows.show(3).figure().axes[0]
    expected = [one.removal for one in rows.show(3).tests[0].helpful + rows.show(3).tests[0].harmful]
    assert [bar.get_width() for bar in bars.patches] == expected
    assert bars.get_xlabel() == "change of the loss when removed"


def test_more_than_there_are_shows_all_with_a_word(pictures):
    many = pictures.show(1000)
    first = many.tests[0]
    assert sorted(one.id for one in first.helpful + first.harmful) == sorted(pictures.train_ids.tolist())
    assert all(one.removal > 0 for one in first.helpful)
    assert all(one.removal <= 0 for one in first.harmful)
    assert [one.removal for one in first.harmful] == sorted(one.removal for one in first.harmful)
    assert "all 30 training examples, each once, 1000 at each end were asked for" in str(many)
    assert "were asked for" not in str(pictures.show(15))


@pytest.mark.parametrize(("above", "helpful"), [(0, 1), (2, 2), (5, 4)])
def test_where_both_ends_meet_no_end_is_longer_than_asked_for(pictures, above, helpful):
    """Of five examples, four at each end, where so many have a positive effect."""
    values = -torch.arange(5.0).sub(5 - above).add(0.5).reshape(1, 5)
    unknown = dict.fromkeys(("drift", "residual_norms", "gradient_norms"))
    few = replace(pictures, values=values, train_ids=pictures.train_ids[:5], test_ids=pictures.test_ids[:1], **unknown)
    (shown,) = few.show(4).tests
    assert (len(shown.helpful), len(shown.harmful)) == (helpful, 5 - helpful)
    assert len({one.id for one in shown.helpful + shown.harmful}) == 5


def test_other_tests_other_numbers_and_what_cannot_be_shown(pictures, tmp_path):
    assert [test.id for test in pictures.show(1, tests=105).tests] == [105]
    with pytest.raises(ValueError, match="no test example has id 9"):
        pictures.show(1, tests=9)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        pictures.show(0)
    with pytest.raises(ValueError, match=r"shown.docx must end in \.html, \.txt or one of \.png"):
        pictures.show(1).save(tmp_path / "shown.docx")
    (tmp_path / "shown.html").mkdir()
    with pytest.raises(ValueError, match=r"shown examples cannot be written to .*shown\.html, which is a folder; name"):
        pictures.show(1).save(tmp_path / "shown.html")
    pictures.save(tmp_path / "scores.safetensors")
    loaded = bi.InfluenceScores.load(tmp_path / "scores.safetensors")
    with pytest.raises(ValueError, match=r"scores from a file do not hold the examples; pass them, show\(k, train="):
        loaded.show(1)
    train, test = pictures.examples
    assert str(loaded.show(2, train=train, test=test)) == str(pictures.show(2))


def test_bars_lie_beside_their_names_and_are_as_long_as_their_effects(rows):
    shown = rows.show(2)
    (axes,) = shown.figure().get_axes()
    ends = [*shown.tests[0].helpful, *shown.tests[0].harmful]
    assert [bar.get_width() for bar in axes.patches] == [one.removal for one in ends]
    assert [bar.get_y() + bar.get_height() / 2 for bar in axes.patches] == pytest.approx([0, -1, -2, -3])
    assert [text.xy for text in axes.texts] == [(1.01, 0), (1.01, -1), (1.01, -2), (1.01, -3)]
    assert all(f" {one.id}  " in text.get_text() for one, text in zip(ends, axes.texts, strict=True))


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_stretched_from_their_smallest_to_their_largest_number(channels):
    image = torch.randn(channels, 4, 5, generator=torch.Generator().manual_seed(0)) * 30 - 100
    axes = Figure().subplots()
    draw_picture(axes, image)
    (drawn,) = axes.get_images()
    expected = ((image - image.min()) / (image.max() - image.min())).movedim(0, -1).numpy()
    np.testing.assert_allclose(drawn.get_array(), expected[..., 0] if channels == 1 else expected)
    draw_picture(axes, torch.full((channels, 4, 5), 7.0))
    assert not axes.get_images()[-1].get_array().any()


def test_ends_take_each_position_once_by_its_sign_where_they_would_meet():
    removal = torch.tensor([3.0, -1.0, 2.0, -4.0, 0.5])
    assert [end.tolist() for end in both_ends(removal, 2)] == [[0, 2], [3, 1]]
    assert [end.tolist() for end in both_ends(removal, 3)] == [[0, 2, 4], [3, 1]]
    assert [end.tolist() for end in both_ends(-removal, 4)] == [[3, 1], [0, 2, 4]]
    assert [end.tolist() for end in both_ends(removal.abs(), 4)] == [[3, 0, 2, 1], [4]]
