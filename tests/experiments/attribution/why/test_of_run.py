"""Explanations of a run on images in files: their names, their pictures, and another number of rows."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bayes_influence.experiments.attribution.of_run import InfluenceRequest, influence_of_run
from bayes_influence.experiments.attribution.ranking import printed_rankings
from bayes_influence.experiments.attribution.why.explanation import printed_explanation
from bayes_influence.experiments.attribution.why.of_run import explain_run
from bayes_influence.experiments.store.pages import page_of, redraw
from bayes_influence.experiments.training.report import train_and_report
from bayes_influence.experiments.training.settings import TrainRun


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for label, shade in (("[b]dark", 60), ("light", 180)):
        (folder / "photos" / label).mkdir(parents=True)
        for number in range(15):
            pixels = random.normal(shade, 40, (5, 5)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / label / f"{number:02}.png")
    told = TrainRun(str(folder / "photos"), "mlp", "weight-decay", epochs=3, width=3)
    train_and_report(told, folder / "run", progress=False)
    return folder / "run"


def shown(tables):
    return [str(cell) for table in tables for column in table.columns for cell in column.cells]


def test_images_are_named_by_their_files_and_drawn(run, tmp_path):
    request = InfluenceRequest((1, 3), top=3)
    found = explain_run(run, tmp_path / "why", request, removals=3, progress=False)
    for table, part in ((found.evidence, "train"), (found.predictions, "test")):
        files = [Path(file) for file in table[f"{part}_file"]]
        classes = table["label" if part == "test" else "train_target"]
        assert [file.parent.name for file in files] == classes.tolist()
        assert all(file.is_file() for file in files)
    first = found.evidence.iloc[0]
    named = f"{first['train_id']} {'/'.join(Path(first['train_file']).parts[-2:])}".replace("[b]", r"\[b]")
    assert any(cell.startswith(f"{named} (") for cell in shown(printed_explanation(found)))
    assert pd.read_csv(found.folder / "why.csv")["train_file"].tolist() == found.evidence["train_file"].tolist()
    assert found.pictures == ("test-1", "test-3")
    assert {"test-1.png", "test-3.pdf"} <= {path.name for path in found.folder.iterdir()}
    drawn = redraw(found.folder, page_of(None, kinds=("svg",)), tmp_path / "figures", ())
    assert {file.stem for file in drawn} >= {"test-1", "test-3"}


def test_another_number_of_rows_is_named_in_the_same_folder(run, tmp_path):
    few, more = (
        explain_run(run, tmp_path / "why", InfluenceRequest((1,), top=top), removals=3, progress=False)
        for top in (2, 4)
    )
    assert len(more.evidence) == 2 * len(few.evidence)
    assert len(more.removed["removed_ids"].item().split()) == 4
    assert len(pd.read_csv(tmp_path / "why" / "why.csv")) == len(more.evidence)
    with pytest.raises(ValueError, match=r"removals is 3 there and 4 here. Choose another folder \(--out on the"):
        explain_run(run, tmp_path / "why", InfluenceRequest((1,), top=2), removals=4, progress=False)


def test_a_ranking_of_images_names_their_files(run, tmp_path):
    found = influence_of_run(run, tmp_path / "out", InfluenceRequest((1,), top=2), progress=False)
    row = found.ranking.iloc[0]
    assert list(found.ranking.columns)[1:3] == ["test_id", "test_file"]
    assert Path(row["train_file"]).parent.name == row["train_target"]
    (table,) = printed_rankings(found.ranking, found.measured)
    assert Path(row["test_file"]).name in str(table.title)
    assert any(cell.endswith(Path(row["train_file"]).name) for cell in shown([table]))
