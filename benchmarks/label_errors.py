"""How many of the flagged labels are right, and how many wrong ones are found, where labels were made wrong.

Ten tables, four that scikit-learn ships and six that it makes; 2, 5, 10 and 20 % of the labels wrong, in any other
class (symmetric) or in the next one (pairwise). Labels are searched as `find_mislabelled` does: networks of three
strengths of weight decay, held out in five folds, the strength with the best held-out likelihood. Where cleanlab is
installed (`pip install cleanlab`, in an environment beside), its `find_label_issues` gets the same probabilities.
Where the search does not tell its rate, nothing is flagged; what would be is shown beside. `--hard` takes the tables of
`hard_tables`, where networks know little.

Predictions are kept in the folder, so that a run that was stopped goes on. A seed takes about ten minutes on a core.

    python -m benchmarks.label_errors --seeds 1,2,3
    python -m benchmarks.label_errors --hard
"""

from __future__ import annotations

from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from sklearn import datasets
from sklearn.metrics import average_precision_score
from statsmodels.stats.proportion import proportion_confint

from bayes_influence.data.dataset import Dataset
from bayes_influence.data.standardisation import standardise
from bayes_influence.data.tables import TABLES, load_table
from bayes_influence.evaluation.intervals import mean_interval
from bayes_influence.evaluation.known_rate import doubt_of_rate
from bayes_influence.evaluation.label_noise import label_noise
from bayes_influence.experiments.attribution.labels.settings import LEARNING_RATE, NETWORK, STEPS, strengths
from bayes_influence.models.mlp import MLP
from bayes_influence.training.cross_validation import held_out_predictions
from bayes_influence.training.schedules import Schedule
from benchmarks.hard_tables import CELLS, hard_tables

LEVEL = 0.1
RATES = (0.02, 0.05, 0.1, 0.2)
KINDS = ("symmetric", "pairwise")
MEMBERS = 3


def tables() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Inputs and classes by name."""
    shipped = {name: load_table(name) for name in TABLES}
    found = {name: (data.inputs.numpy(), data.targets.numpy()) for name, data in shipped.items()}
    hastie = datasets.make_hastie_10_2(1200, random_state=1)
    return found | {
        "moons": datasets.make_moons(600, noise=0.2, random_state=1),
        "circles": datasets.make_circles(600, noise=0.1, factor=0.5, random_state=1),
        "blobs": datasets.make_blobs(600, centers=5, cluster_std=1.3, n_features=4, random_state=2),
        "quantiles": datasets.make_gaussian_quantiles(n_samples=900, n_features=3, n_classes=3, random_state=1),
        "hypercube": datasets.make_classification(
            900, 12, n_informative=6, n_classes=3, class_sep=1.5, flip_y=0, random_state=1
        ),
        "hastie": (hastie[0], (hastie[1] > 0).astype(int)),
    }


def flipped(classes: np.ndarray, rate: float, kind: str, seed: int) -> np.ndarray:
    """Labels of which a share is wrong."""
    random = np.random.default_rng(100 * seed + 7)
    count = int(classes.max()) + 1
    rows = random.choice(len(classes), round(rate * len(classes)), replace=False)
    labels = classes.copy()
    labels[rows] = (classes[rows] + (1 if kind == "pairwise" else random.integers(1, count, len(rows)))) % count
    return labels


def predicted(path: Path, inputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(strengths, members, n, C) held-out probabilities, computed or as they were kept."""
    if path.is_file():
        return np.load(path)["members"]
    count = int(labels.max()) + 1
    names = tuple(map(str, range(count)))
    whole = Dataset(torch.as_tensor(inputs).double(), torch.as_tensor(labels), torch.arange(len(labels)), path.stem)
    (data,) = standardise(Dataset(whole.inputs, whole.targets, whole.ids, path.stem, class_names=names))
    found = held_out_predictions(
        strengths(),
        lambda: MLP(inputs.shape[1], count, **NETWORK),
        data,
        range(MEMBERS),
        Schedule(STEPS, LEARNING_RATE),
    )
    members = np.stack([one.members.numpy() for one in found])
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, members=members)
    return members


def measured(members: np.ndarray, labels: np.ndarray, classes: np.ndarray) -> dict[str, Any]:
    """What is flagged and how well it is ranked, by this library, by the ensemble's margin, and by cleanlab."""
    rows, wrong = np.arange(len(labels)), labels != classes
    averaged = members.mean(axis=1)
    best = int(np.log(averaged[:, rows, labels] + 1e-12).mean(axis=1).argmax())
    probabilities = averaged[best]
    noise = label_noise(torch.from_numpy(probabilities), torch.from_numpy(labels))
    known = doubt_of_rate(torch.from_numpy(probabilities), torch.from_numpy(labels)) is None
    listed = noise.flagged(LEVEL).numpy()
    flagged = listed & known
    logs = np.log(members[best] + 1e-12)
    others = np.where(np.eye(members.shape[-1], dtype=bool)[labels], -np.inf, logs).max(axis=2)
    margin = (others - logs[:, rows, labels]).mean(axis=0)
    right = noise.proposed.numpy() == classes
    found: dict[str, Any] = {
        "wrong": wrong.sum(),
        "flagged": flagged.sum(),
        "false": (flagged & ~wrong).sum(),
        "told": int(known),
        "unflagged": (listed & ~flagged).sum(),
        "unflagged right": (listed & ~flagged & ~wrong).sum(),
        "proposed": right[flagged & wrong].sum(),
        "precision": average_precision_score(wrong, noise.wrong.numpy()),
        "precision of margin": average_precision_score(wrong, margin),
        "rate": noise.rate,
    }
    if find_spec("cleanlab"):
        from cleanlab.filter import find_label_issues
        from cleanlab.rank import get_label_quality_scores

        theirs = find_label_issues(labels, probabilities, n_jobs=1)
        score = -get_label_quality_scores(labels, probabilities)
        share = wrong[theirs].mean() if theirs.any() else 1.0
        found |= {
            "cleanlab flagged": theirs.sum(),
            "cleanlab false": (theirs & ~wrong).sum(),
            "precision of cleanlab": average_precision_score(wrong, score),
            "found at their precision": _found(noise.wrong.numpy(), wrong, share),
            "found at their precision by margin": _found(margin, wrong, share),
        }
    return found


def _found(score: np.ndarray, wrong: np.ndarray, precision: float) -> int:
    """Wrong labels on the longest list, by score, whose precision is at least this."""
    hits = wrong[np.argsort(-score, kind="stable")].cumsum()
    fine = np.flatnonzero(hits / np.arange(1, len(hits) + 1) >= precision)
    return int(hits[fine[-1]]) if len(fine) else 0


def summarised(cells: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Cells added up: false-discovery proportion with its 95 % interval, and recall; mean average precision."""
    counts = cells.groupby(by, sort=False).sum(numeric_only=True)
    means = cells.groupby(by, sort=False).mean(numeric_only=True)
    pairs = zip(counts["false"], counts["flagged"], strict=True)
    bounds = [
        proportion_confint(false, flagged, method="wilson") if flagged else (0.0, 1.0) for false, flagged in pairs
    ]
    columns = {
        "searches": cells.groupby(by, sort=False).size(),
        "told": counts["told"],
        "flagged": counts["flagged"],
        "fdp": counts["false"] / counts["flagged"],
        "from": [low for low, _ in bounds],
        "to": [high for _, high in bounds],
        "recall": (counts["flagged"] - counts["false"]) / counts["wrong"],
        "proposal right": counts["proposed"] / (counts["flagged"] - counts["false"]),
        "not told, would flag": counts["unflagged"],
        "fdp there": counts["unflagged right"] / counts["unflagged"],
        "rate": means["rate"],
        "AP": means["precision"],
        "AP margin": means["precision of margin"],
    }
    if "cleanlab flagged" in cells:
        hits = counts["cleanlab flagged"] - counts["cleanlab false"]
        columns |= {
            "cleanlab fdp": counts["cleanlab false"] / counts["cleanlab flagged"],
            "cleanlab recall": hits / counts["wrong"],
            "recall at its precision": counts["found at their precision"] / counts["wrong"],
            "margin's": counts["found at their precision by margin"] / counts["wrong"],
            "AP cleanlab": means["precision of cleanlab"],
        }
    return pd.DataFrame(columns)


def over_seeds(cells: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Of every seed the false-discovery proportion and recall of its searches together; means and their 95 % intervals.

    Student's, over the seeds: wrong labels differ between them, images or rows do not. A seed in which nothing is
    flagged has a proportion of 0.
    """
    sums = cells.groupby([*by, "seed"], sort=False)[["wrong", "flagged", "false"]].sum()
    sums["fdp"] = sums["false"] / sums["flagged"].clip(lower=1)
    sums["recall"] = (sums["flagged"] - sums["false"]) / sums["wrong"]
    rows = {}
    for group, seeds in sums.groupby(by, sort=False):
        row: dict[str, float] = {"seeds": len(seeds), "flagged": seeds["flagged"].sum()}
        for name in ("fdp", "recall"):
            mean = mean_interval(seeds[name].to_numpy(), bounds=(0.0, 1.0))
            row |= {name: mean.estimate, f"{name} from": mean.low, f"{name} to": mean.high}
        rows[group] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def main(
    seeds: Annotated[str, typer.Option(help="Of the wrong labels, separated by commas.")] = "1",
    only: Annotated[str, typer.Option(help="Tables, separated by commas; all when not given.")] = "",
    hard: Annotated[bool, typer.Option(help="Tables on which networks know little.")] = False,
    folder: Annotated[Path, typer.Option(help="Where predictions are kept.")] = Path("runs/label-errors"),
) -> None:
    """Prints one row per table and share, the whole by kind and by share, by table, and over all."""
    torch.set_num_threads(1)
    cells = []
    taken = hard_tables(tables()) if hard else tables()
    for seed, (name, (inputs, classes)) in product(map(int, seeds.split(",")), taken.items()):
        for kind, rate in CELLS if hard else product(KINDS, RATES):
            if (only and name not in only.split(",")) or (kind == "pairwise" and classes.max() == 1):
                continue
            labels = flipped(classes.astype(np.int64), rate, kind, seed)
            members = predicted(folder / f"{name}_{kind}_{rate}_{seed}.npz", inputs, labels)
            cells.append({"table": name, "kind": kind, "share": rate, **measured(members, labels, classes)})
    frame = pd.DataFrame(cells).assign(of="all")
    for by in (["table", "share"], ["kind", "share"], ["table"], ["of"]):
        print(summarised(frame, by).round(3).to_string(), end="\n\n")


if __name__ == "__main__":
    typer.run(main)
