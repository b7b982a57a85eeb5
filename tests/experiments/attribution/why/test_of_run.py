"""Explanations of a run on images in files: their names, their pictures, and another number of rows."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from bayes_influence.experiments.attribution.of_run import InfluenceRequest, influence_of_run
from bayes_influence.experiments.attribution.ranking import printed_rankings
from bayes_influence.experiments.attribution.why.explanation import printed_explanation
from bayes_influence.experiments.attribution.why.of_run import explain_run
from bayes_influence.experiments.store.pages import page_of, redraw
from bayes_influence.experiments.training.report import train_and_report
from bayes_influence.experiments.training.run import load_run
from bayes_influence.experiments.training.settings import TrainRun
from tests.documented import documented_columns


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


@pytest.fixture(scope="module")
def found(run):
    return explain_run(run, run.with_name("why"), InfluenceRequest((1, 3), top=2), removals=3, progress=False)


def shown(tables):
    return [str(cell) for table in tables for column in table.columns for cell in column.cells]


def test_images_are_named_by_their_files_and_drawn(found, tmp_path):
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


@pytest.mark.parametrize(
    ("file", "heading"),
    [
        ("why.csv", "Of `why`: the rows, `why.csv`"),
        ("predictions.csv", "Of `why` for classes: `predictions.csv`"),
        ("removed.csv", "Of `why` for classes: `removed.csv`"),
    ],
)
def test_every_column_is_described(found, file, heading):
    stored = pd.read_csv(found.folder / file)
    assert stored.columns.tolist() == documented_columns("find_mislabelled.md", heading)


@pytest.mark.slow
def test_another_number_of_rows_is_named_in_the_same_folder(run, found, caplog):
    caplog.set_level("INFO", "bayes_influence.curvature.cost")
    asked = InfluenceRequest((1, 3), top=4)
    more = explain_run(run, found.folder, asked, removals=3, progress=False)
    assert f"explanation of 2 predictions of {run}, held against retraining without each of 3 rows" in caplog.messages
    assert len(more.evidence) == 2 * len(found.evidence)
    assert [len(ids.split()) for ids in more.removed["removed_ids"]] == [4, 4]
    assert len(pd.read_csv(found.folder / "why.csv")) == len(more.evidence)
    with pytest.raises(ValueError, match=r"removals is 3 there and 4 here. Choose another folder \(--out on the"):
        explain_run(run, found.folder, asked, removals=4, progress=False)


def test_a_ranking_of_images_names_their_files(run, tmp_path):
    found = influence_of_run(run, tmp_path / "out", InfluenceRequest((1,), top=2), progress=False)
    row = found.ranking.iloc[0]
    assert list(found.ranking.columns)[1:3] == ["test_id", "test_file"]
    assert Path(row["train_file"]).parent.name == row["train_target"]
    (table,) = printed_rankings(found.ranking, found.measured)
    assert Path(row["test_file"]).name in str(table.title)
    assert any(cell.endswith(Path(row["train_file"]).name) for cell in shown([table]))


def test_a_prediction_that_the_minimum_turns_is_noted(tmp_path):
    random = np.random.default_rng(1)
    x = random.normal(size=(60, 2))
    kind = np.where(x[:, 0] + 0.5 * random.normal(size=60) > 0, "[b]up", "down")
    pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "kind": kind}).to_csv(tmp_path / "t.csv", index=False)
    told = TrainRun(str(tmp_path / "t.csv"), "mlp", "weight-decay", target=("kind",), epochs=1, width=3)
    train_and_report(told, tmp_path / "run", progress=False)
    objective, split, _ = load_run(tmp_path / "run")
    with torch.no_grad():
        trained = objective.outputs(objective.params, split.test.inputs).argmax(dim=1).tolist()
    asked = InfluenceRequest(tuple(range(len(trained))), top=1)
    found = explain_run(tmp_path / "run", tmp_path / "why", asked, removals=3, progress=False)
    pairs = zip([split.test.class_names[one] for one in trained], found.predictions["predicted"], strict=True)
    turned = [(place, *pair) for place, pair in enumerate(pairs) if pair[0] != pair[1]]
    assert 0 < len(turned) < len(trained)
    assert found.notes == tuple(
        f"test {place}: as training left it the network predicts {before}; explained is what it predicts at its last "
        f"layer's minimum, {after}"
        for place, before, after in turned
    )
