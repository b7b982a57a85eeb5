import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bayes_influence.experiments.attribution.labels import of_examples
from bayes_influence.experiments.attribution.labels.of_data import find_in_data
from bayes_influence.experiments.attribution.labels.result import printed_issues
from bayes_influence.experiments.attribution.labels.settings import LabelData, LabelSettings
from bayes_influence.experiments.stored import inspected
from tests.documented import documented_columns

QUICK = LabelSettings(folds=3, seeds=(0,), listed=5)


def test_a_table_in_a_file_is_searched_and_stored(tmp_path, towns, caplog):
    caplog.set_level("INFO", "bayes_influence.curvature.cost")
    path = tmp_path / "towns.csv"
    towns.to_csv(path, index=False)
    data = LabelData(str(path), target=("label",), epochs=60, learning_rate=0.05)
    found = find_in_data(data, tmp_path / "found", QUICK, progress=False)
    assert sorted(found.issues.flagged["row"]) == [5, 30, 61]
    assert caplog.messages[0] == (
        "search for wrong labels in towns: 90 rows in 3 parts, each predicted by 3 networks that are trained on the "
        "others"
    )
    stored = pd.read_parquet(found.folder / "labels.parquet")
    assert stored["row"].tolist() == found.issues.ranked["row"].tolist()
    assert (found.folder / "labels.csv").is_file()
    described = inspected(found.folder)
    assert (described.kind, described.finished) == ("search for wrong labels", "yes")
    other = LabelSettings(folds=2, seeds=(0,))
    with pytest.raises(ValueError, match=r"settings.folds is 3 there and 2 here. Choose another folder \(--out on the"):
        find_in_data(data, tmp_path / "found", other, progress=False)


def test_another_list_of_the_same_search_trains_no_held_out_network_again(tmp_path, towns, monkeypatch):
    towns.to_csv(tmp_path / "towns.csv", index=False)
    data = LabelData(str(tmp_path / "towns.csv"), target=("label",), epochs=20, learning_rate=0.05)
    first = find_in_data(data, tmp_path / "found", QUICK, progress=False).issues
    monkeypatch.setattr(of_examples, "held_out_predictions", None)
    monkeypatch.setattr(of_examples, "gains_of_longer_training", None)
    longer = LabelSettings(folds=3, seeds=(0,), listed=9, level=0.4, evidence=1)
    again = find_in_data(data, tmp_path / "found", longer, progress=False).issues
    same = ["row", "wrong", "loss", "epistemic", "self_influence"]
    pd.testing.assert_frame_equal(again.ranked[same], first.ranked[same])
    assert (first.listed, again.listed, again.level) == (5, 9, 0.4)
    assert (again.scheme, again.longer) == (first.scheme, first.longer)
    stored = pd.read_csv(tmp_path / "found" / "labels.csv")
    assert again.ranked["supporting"].str.split().str.len().max() <= 1
    assert stored["flagged"].sum() == again.ranked["flagged"].sum() >= first.ranked["flagged"].sum()


def test_a_folder_of_images_names_its_files(tmp_path):
    random = np.random.default_rng(0)
    for label, shade in (("dark", 40), ("light", 200)):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(12):
            mean = 240 - shade if (label, number) == ("dark", 3) else shade
            pixels = random.normal(mean, 10, (6, 6)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{number:02}.png")
    data = LabelData(str(tmp_path / "photos"), epochs=15, learning_rate=0.01, batch_size=8)
    issues = find_in_data(data, tmp_path / "found", QUICK, progress=False).issues
    first = issues.ranked.iloc[0]
    assert first["file"] == str(tmp_path / "photos" / "dark" / "03.png")
    assert (first["label"], first["proposed"]) == ("dark", "light")
    table = printed_issues(issues)
    assert [str(column.header) for column in table.columns][:3] == ["row", "file", "label"]
    assert next(iter(table.columns[1].cells)) == "dark/03.png"
    documented = [name for name in documented_columns("find_mislabelled.md", "Of a search") if name != "index"]
    for name in ("labels.csv", "labels.parquet"):
        read = pd.read_csv if name.endswith("csv") else pd.read_parquet
        stored = read(tmp_path / "found" / name)
        assert stored["file"].iloc[0] == first["file"]
        assert stored.columns.tolist() == documented
