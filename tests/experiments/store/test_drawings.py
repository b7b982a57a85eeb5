"""Figures that are drawn again from what was stored: the same figure, and nothing but this library draws."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from bayes_influence.data.dataset import Dataset
from bayes_influence.evaluation.verdict import Grade
from bayes_influence.experiments.comparison.figures import sizes_figure
from bayes_influence.experiments.store import drawings
from bayes_influence.experiments.store.drawings import DRAWINGS, Drawing, stored_drawings
from bayes_influence.experiments.store.figures import encoded


def test_what_is_read_back_draws_the_same(drawing):
    again = Drawing.decode(drawing.encode())
    assert again.draw is sizes_figure
    assert encoded(again.figure(), "png", 50) == encoded(drawing.figure(), "png", 50)
    assert again.encode() == drawing.encode()


def kept(*arguments):
    return Drawing.decode(Drawing(sizes_figure, arguments).encode()).arguments


def test_every_kind_of_argument_comes_back():
    frame = pd.DataFrame({"mixed": [0.5, "all"], "a": [0.1, np.nan], "b": ["x", None], "c": [1, 2]}, index=[5, 3])
    table, array, tensor, *rest, mapping = kept(
        *(frame, np.arange(6).reshape(2, 3), torch.tensor([1.5]), "words", np.int64(3), 0.25, float("inf"), None, True),
        {"one": frame, 2: [1, "two"]},
    )
    pd.testing.assert_frame_equal(table, frame.reset_index(drop=True))
    assert array.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert torch.equal(tensor, torch.tensor([1.5]))
    assert rest == ["words", 3, 0.25, float("inf"), None, True]
    assert list(mapping) == ["one", 2]
    assert mapping[2] == (1, "two")
    pd.testing.assert_frame_equal(mapping["one"], table)


def test_examples_come_back():
    data = Dataset(torch.rand(3, 2), torch.tensor([0, 1, 0]), torch.tensor([7, 1, 4]), name="three")
    (again,) = kept(data)
    assert isinstance(again, Dataset)
    assert torch.equal(again.inputs, data.inputs)
    assert torch.equal(again.ids, data.ids)
    assert again.name == "three"


def test_members_of_an_enumeration_come_back():
    assert kept(Grade.REVERSED) == (Grade.REVERSED,)
    assert isinstance(kept(Grade.REVERSED)[0], Grade)


@dataclass
class Foreign:
    number: int = 1


def test_what_cannot_be_stored_is_refused(drawing):
    with pytest.raises(TypeError, match="is made of tables, arrays and texts, got <object object"):
        Drawing(sizes_figure, (object(),)).encode()
    with pytest.raises(TypeError, match="only what this library names can draw a figure again, got tests"):
        Drawing(sizes_figure, (Foreign(),)).encode()
    with pytest.raises(TypeError, match=r"only what this library names can draw .*<lambda>"):
        Drawing(lambda: Figure(), ()).encode()


def test_nothing_else_is_asked_to_draw(drawing, monkeypatch):
    monkeypatch.setattr(drawings, "_place", lambda what: "os:getcwd")
    content = drawing.encode()
    with pytest.raises(ValueError, match="os:getcwd is nothing of this library, and is not asked to draw"):
        Drawing.decode(content)
    monkeypatch.setattr(drawings, "_place", lambda what: "bayes_influence.experiments.gone:figure")
    content = drawing.encode()
    with pytest.raises(ValueError, match=r"this version has no bayes_influence\.experiments\.gone:figure"):
        Drawing.decode(content)


def test_a_folder_without_drawings_and_a_damaged_one_are_told(drawing, tmp_path):
    with pytest.raises(FileNotFoundError, match="no figures that can be drawn again: either none belong"):
        stored_drawings(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere: there is no such folder"):
        stored_drawings(tmp_path / "nowhere")
    (tmp_path / DRAWINGS).mkdir()
    (tmp_path / DRAWINGS / "one.safetensors").write_bytes(drawing.encode())
    assert list(stored_drawings(tmp_path)) == ["one"]
    content = bytearray(drawing.encode())
    content[-3] ^= 1
    (tmp_path / DRAWINGS / "one.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"one\.safetensors is damaged: .*; run the study's command once more"):
        stored_drawings(tmp_path)


def test_a_drawing_of_another_version_is_told(drawing, monkeypatch):
    apart = drawings._Parts.apart

    def without_columns(self, value):
        return {key: part for key, part in apart(self, value).items() if key != "columns"}

    monkeypatch.setattr(drawings._Parts, "apart", without_columns)
    with pytest.raises(
        ValueError, match="stored by another version, which wrote no 'columns'; run the study's command"
    ):
        Drawing.decode(drawing.encode())
