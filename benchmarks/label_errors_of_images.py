"""Labels of images: known wrong ones of published test parts, and ones made wrong, as `label_errors` does on tables.

`known` ranks the test part of MNIST or CIFAR-10 and says where the labels stand that people found wrong, see
`known_label_errors.json` for which and from where; with `--beside`, images of the training part are searched with
them, which gives the networks more to learn from. `planted` makes labels of training images wrong, 2 to 20 % of them.

    python -m benchmarks.label_errors_of_images known mnist
    python -m benchmarks.label_errors_of_images planted mnist fashion-mnist cifar10
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer

from bayes_influence.data.dataset import Dataset
from bayes_influence.data.images import IMAGE_SETS
from bayes_influence.data.standardisation import standardise
from bayes_influence.evaluation.label_noise import label_noise
from bayes_influence.experiments.attribution.labels.settings import IN_MINIBATCHES, in_minibatches
from bayes_influence.models.lenet import LeNet
from bayes_influence.training.cross_validation import held_out_predictions
from benchmarks.label_errors import KINDS, RATES, flipped, measured, over_seeds, summarised

KNOWN = Path(__file__).with_name("known_label_errors.json")
LEVEL = 0.1

app = typer.Typer(add_completion=False)
Folder = Annotated[Path, typer.Option(help="Where predictions are kept.")]
DataFolder = Annotated[Path | None, typer.Option(help="Where the image sets are.")]
Members = Annotated[int, typer.Option(help="Networks per fold.")]
Folds = Annotated[int, typer.Option(help="Parts, each predicted by networks that were trained on the others.")]


def predicted(
    path: Path, images: torch.Tensor, labels: np.ndarray, members: int, folds: int, passes: int | None = None
) -> np.ndarray:
    """(strengths, members, n, C) held-out probabilities, computed or as they were kept."""
    if path.is_file():
        return np.load(path)["members"]
    whole = Dataset(images, torch.from_numpy(labels), torch.arange(len(labels)), path.stem)
    (data,) = standardise(whole, by="channel")
    shape, started = tuple(images.shape[1:]), time.process_time()
    schedule = in_minibatches(len(data))
    if passes is not None:
        schedule = replace(schedule, epochs=passes)
    found = held_out_predictions(
        [IN_MINIBATCHES],
        lambda: LeNet(10, shape, "relu"),
        data,
        range(members),
        schedule,
        folds=folds,
    )
    print(f"{path.stem}: {time.process_time() - started:.0f} s of processor time", flush=True)
    kept = np.stack([one.members.numpy() for one in found])
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, members=kept)
    return kept


@app.command()
def known(
    name: Annotated[str, typer.Argument(help="mnist or cifar10.")],
    beside: Annotated[int, typer.Option(help="Training images that are searched with them.")] = 0,
    members: Members = 3,
    folds: Folds = 5,
    folder: Folder = Path("runs/label-errors"),
    data_folder: DataFolder = None,
) -> None:
    """Prints where the known wrong labels of a test part stand among its images."""
    torch.set_num_threads(1)
    parts = IMAGE_SETS[name].raw_split(torch.float32, data_folder)
    other = parts.train.select(range(beside)).batch() if beside else None
    test, count = parts.test.batch(), len(parts.test)
    images = test.inputs if other is None else torch.cat([test.inputs, other.inputs])
    labels = (test.targets if other is None else torch.cat([test.targets, other.targets])).numpy()
    path = folder / f"{name}-test_{beside}_{members}_{folds}.npz"
    probabilities = predicted(path, images, labels, members, folds)[0].mean(axis=0)
    noise = label_noise(torch.from_numpy(probabilities), torch.from_numpy(labels))
    rows = np.arange(count)
    loss = -np.log(probabilities[rows, labels[:count]] + 1e-12)
    agreed = (probabilities.argmax(axis=1) == labels)[:count].mean()
    flagged = int(noise.flagged(LEVEL)[:count].sum())
    print(f"{agreed:.1%} of the labels are predicted, {noise.rate:.2%} believed wrong, {flagged} flagged")
    table = np.array(json.loads(KNOWN.read_text())[name])
    for what, score in (("probability of being wrong", noise.wrong[:count].numpy()), ("held-out loss", loss)):
        places = np.empty(count, dtype=int)
        places[np.argsort(-score, kind="stable")] = rows
        for who, chosen in (("fewer than three of five saw", table), ("none of five saw", table[table[:, 3] == 0])):
            own = np.sort(places[chosen[:, 0]])
            share = ", ".join(f"{(own < part * count).sum()} in the first {part:.0%}" for part in (0.01, 0.02, 0.05))
            print(f"by {what}: of {len(own)} labels that {who}, {share}; places {(own + 1).tolist()}")


@app.command()
def planted(
    names: Annotated[list[str], typer.Argument(help="mnist, fashion-mnist, cifar10.")],
    images: Annotated[int, typer.Option(help="How many, the first of the training part.")] = 3000,
    passes: Annotated[int | None, typer.Option(help="Over the images; as a search makes them when not given.")] = None,
    seeds: Annotated[str, typer.Option(help="Of the wrong labels, separated by commas.")] = "1",
    members: Members = 3,
    folds: Folds = 5,
    folder: Folder = Path("runs/label-errors"),
    data_folder: DataFolder = None,
) -> None:
    """Prints one row per set and share, the whole by kind and by share, and per set; then intervals over seeds."""
    torch.set_num_threads(1)
    cells = []
    for seed, name in product(map(int, seeds.split(",")), names):
        train = IMAGE_SETS[name].raw_split(torch.float32, data_folder).train.select(range(images)).batch()
        for kind, rate in product(KINDS, RATES):
            classes = train.targets.numpy()
            labels = flipped(classes, rate, kind, seed)
            path = folder / f"{name}-{images}_{kind}_{rate}_{seed}_{members}_{folds}_{passes}.npz"
            found = measured(predicted(path, train.inputs, labels, members, folds, passes), labels, classes)
            cells.append({"set": name, "kind": kind, "share": rate, "seed": seed, **found})
    frame = pd.DataFrame(cells)
    for by in (["set", "share"], ["kind", "share"], ["set"]):
        print(summarised(frame, by).round(3).to_string(), end="\n\n")
    for by in (["set", "share"], ["set", "kind", "share"], ["set"]):
        print(over_seeds(frame, by).round(3).to_string(), end="\n\n")


if __name__ == "__main__":
    app()
