"""Data as marks leave them, written in the format that they came in."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from bayes_influence.data.columns import words
from bayes_influence.data.dataset import Dataset
from bayes_influence.data.files import write_whole
from bayes_influence.data.own_images import OwnImages
from bayes_influence.data.own_rows import OwnTable
from bayes_influence.data.reading import cells_of, names_in
from bayes_influence.experiments.attribution.labels.settings import LabelData


def write_cleaned(data: LabelData, examples: Dataset, after: Dataset, names: tuple[str, ...], folder: Path) -> Path:
    """The cleaned data, in the format that they came in where that is a table, arrays or a folder of images.

    A folder of images holds links to the same files where the file system has them (`os.link`), and copies elsewhere;
    an image with another label is in `from-CLASS` of its new class.
    """
    known, path = data.known(), Path(data.dataset)
    labels = dict(zip(after.ids.tolist(), after.targets.tolist(), strict=True))
    if isinstance(known, OwnTable):
        target = known.form.target[0]
        separator = "\t" if path.suffix == ".tsv" else data.separator
        cells = pd.read_parquet(path) if path.suffix == ".parquet" else cells_of(path, separator)
        column = list(known.frame.columns).index(target)
        values = dict(zip(words(known.frame[target]), cells.iloc[:, column], strict=True))
        cleaned = cells.iloc[list(labels)].copy()
        before = dict(zip(examples.ids.tolist(), examples.targets.tolist(), strict=True))
        for place, (row, label) in enumerate(labels.items()):
            if label != before[row]:
                cleaned.iloc[place, column] = values[names[label]]
        if isinstance(cells.index, pd.RangeIndex):
            cleaned = cleaned.reset_index(drop=True)
        if path.suffix == ".parquet":
            return _written(cleaned, folder / "cleaned.parquet")
        return _written(cleaned, folder / f"cleaned{path.suffix.lower()}", separator, names_in(path, separator))
    if path.suffix.lower() == ".npz":
        buffer = io.BytesIO()
        np.savez(buffer, inputs=np.load(path)["inputs"][list(labels)], targets=np.array(list(labels.values())))
        write_whole(folder / "cleaned.npz", buffer.getvalue())
        return folder / "cleaned.npz"
    if isinstance(known, OwnImages):
        return _write_images(known, path, labels, folder / "cleaned")
    columns = {"row": list(labels), "label": [names[label] for label in labels.values()]}
    return _written(pd.DataFrame(columns), folder / "cleaned.csv")


def _write_images(known: OwnImages, source: Path, labels: Mapping[int, int], place: Path) -> Path:
    """The images that stay, one sub-folder per class."""
    if place.exists():
        shutil.rmtree(place)
    moved = [row for row, label in labels.items() if label != known.labels[row]]
    for row in [*(row for row in labels if labels[row] == known.labels[row]), *moved]:
        path, old, new = known.paths[row], known.class_names[known.labels[row]], known.class_names[labels[row]]
        within = path.relative_to(source / old)
        target = place / new / within if old == new else place / new / f"from-{old}" / within
        while os.path.lexists(target):
            target = target.with_name(f"{target.stem}-again{target.suffix}")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path.resolve(), target)
        except OSError:
            shutil.copy2(path, target)
    return place


def _written(frame: pd.DataFrame, path: Path, separator: str = ",", header: list[str] | None = None) -> Path:
    buffer = io.BytesIO()
    if path.suffix == ".parquet":
        frame.to_parquet(buffer)
    else:
        frame.to_csv(buffer, index=False, sep=separator, header=header or True)
    write_whole(path, buffer.getvalue())
    return path
