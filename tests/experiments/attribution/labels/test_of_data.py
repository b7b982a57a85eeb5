import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bayes_influence.experiments.attribution.labels.of_data import find_in_data
from bayes_influence.experiments.attribution.labels.settings import LabelData, LabelSettings
from bayes_influence.experiments.stored import inspected

QUICK = LabelSettings(folds=3, seeds=(0,), listed=5)


def test_a_table_in_a_file_is_searched_and_stored(tmp_path, towns):
    path = tmp_path / "towns.csv"
    towns.to_csv(path, index=False)
    data = LabelData(str(path), target=("label",), epochs=60, learning_rate=0.05)
    found = find_in_data(data, tmp_path / "found", QUICK, progress=False)
    assert sorted(found.issues.flagged["row"]) == [5, 30, 61]
    stored = pd.read_parquet(found.folder / "labels.parquet")
    assert stored["row"].tolist() == found.issues.ranked["row"].tolist()
    assert (found.folder / "labels.csv").is_file()
    described = inspected(found.folder)
    assert (described.kind, described.finished) == ("search for wrong labels", "yes")
    with pytest.raises(ValueError, match="belongs to another"):
        find_in_data(data, tmp_path / "found", LabelSettings(folds=2, seeds=(0,)), progress=False)


def test_a_folder_of_images_names_its_files(tmp_path):
    random = np.random.default_rng(0)
    for label, shade in (("dark", 40), ("light", 200)):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(12):
            mean = 240 - shade if (label, number) == ("dark", 3) else shade
            pixels = random.normal(mean, 10, (6, 6)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{number:02}.png")
    data = LabelData(str(tmp_path / "photos"), epochs=15, learning_rate=0.01, batch_size=8)
    first = find_in_data(data, tmp_path / "found", QUICK, progress=False).issues.ranked.iloc[0]
    assert first["file"] == str(tmp_path / "photos" / "dark" / "03.png")
    assert (first["label"], first["proposed"]) == ("dark", "light")
