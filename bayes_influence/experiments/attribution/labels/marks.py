"""Marks that a person made on the page, applied: a cleaned table, and what networks gain from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bayes_influence.data.appearance import every_class_name
from bayes_influence.data.dataset import Dataset
from bayes_influence.data.reading import SEPARATORS, cells_of, read_table
from bayes_influence.evaluation.intervals import Interval, mean_interval
from bayes_influence.experiments.attribution.labels.cleaned import write_cleaned
from bayes_influence.experiments.attribution.labels.evidence import with_targets
from bayes_influence.experiments.attribution.labels.page import data_id
from bayes_influence.experiments.attribution.labels.result import RANKING
from bayes_influence.experiments.attribution.labels.settings import LabelData, LabelSettings
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.training.cross_validation import held_out_predictions

COLUMNS = ("data", "row", "label", "mark", "new_label")
"""Of a file of marks, as the page exports it or a script writes it."""

KINDS = ("keep", "relabel", "drop")


@dataclass(frozen=True, eq=False)
class AppliedMarks:
    """What marks did.

    Attributes:
        folder: With the cleaned data, `marks.csv`, and `comparison.csv`.
        cleaned: The cleaned data in it: a file, or of a folder of images a folder.
        kept: Rows whose label was confirmed.
        relabelled: Rows with another label now.
        dropped: Rows that are gone.
        comparison: Held-out accuracy and loss on the rows that nothing was changed of, of networks that were trained
            on the data before and after.
        seeds: What the networks of each seed predict alone: loss and accuracy on these rows before and after, and
            their changes.
        loss_change: How the loss of such a row changes on average, with its 95 % interval over the rows, for the
            networks at hand: what other seeds would make of it is not in it.
        accuracy_change: How the share of such rows that are predicted right changes, likewise.
    """

    folder: Path
    cleaned: Path
    kept: int
    relabelled: int
    dropped: int
    comparison: pd.DataFrame
    seeds: pd.DataFrame
    loss_change: Interval
    accuracy_change: Interval

    @property
    def sentence(self) -> str:
        """What was done, and what it brought."""
        before, after = self.comparison.to_dict("records")
        loss, points = self.loss_change, self.accuracy_change
        return (
            f"{self.relabelled} relabelled, {self.dropped} dropped, {self.kept} confirmed. Held out, of the "
            f"{after['judged']} rows that were not touched: loss {before['loss']:.4g}, then {after['loss']:.4g}, a "
            f"change of {loss.estimate:+.3g} ({loss.low:+.3g} to {loss.high:+.3g}); accuracy {before['accuracy']:.1%}, "
            f"then {after['accuracy']:.1%}, a change of {100 * points.estimate:+.2g} points ({100 * points.low:+.2g} "
            f"to {100 * points.high:+.2g}); 95 % intervals over the rows, for these networks alone: {self._of_seeds()}"
        )

    def _of_seeds(self) -> str:
        """How far the seeds differ."""
        changes = self.seeds["loss_change"]
        if len(changes) == 1:
            return "trained with another seed they may differ by as much or more"
        return (
            f"of {len(changes)} seeds each changes the loss by {changes.min():+.3g} to {changes.max():+.3g}, and other "
            "seeds may differ by as much"
        )


def read_marks(path: str | Path) -> pd.DataFrame:
    """A file of marks as the page exports it or a script writes it, one row per mark.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such file, is of several data sets, or marks a row twice or with an unknown mark.
    """
    separator = _separator(Path(path))
    found = read_table(Path(path), separator)
    absent = [name for name in COLUMNS if name not in found.columns]
    if absent:
        raise ValueError(f"{path} is no file of marks, which has the columns {', '.join(COLUMNS)}; got no {absent[0]}")
    if len(found) == 0:
        raise ValueError(f"{path} holds no mark; mark rows on the page, then export them")
    try:
        found["row"] = found["row"].astype("int64")
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} must say rows by their numbers in the column row: {error}") from error
    cells = found.astype(str) if Path(path).suffix == ".parquet" else cells_of(Path(path), separator)
    found = found.assign(**{name: cells[name] for name in ("data", "label", "mark", "new_label")})
    if len(sets := set(found["data"])) > 1:
        raise ValueError(f"{path} holds marks of {len(sets)} data sets; apply one after the other")
    if found["row"].duplicated().any():
        raise ValueError(f"{path} marks row {found['row'][found['row'].duplicated()].iloc[0]} twice")
    unknown = set(found["mark"]) - set(KINDS)
    if unknown:
        raise ValueError(f"{path} holds the unknown mark {min(unknown)!r}; known: {', '.join(KINDS)}")
    return found


def _separator(path: Path) -> str:
    """What stands between the columns of a file of marks: a spreadsheet may have stored it with another one."""
    if path.suffix == ".parquet" or not path.is_file():
        return ","
    with path.open(errors="replace") as stream:
        header = stream.readline()
    return next((mark for mark in SEPARATORS if mark in header), ",")


def run_of_marks(marks: pd.DataFrame, folder: str | Path = "runs") -> Path:
    """The search that marks were made on, among those in a folder.

    Args:
        marks: As `read_marks` has them.
        folder: Where searches are stored.

    Raises:
        ValueError: If none of them is of the data that were marked, or several are.
    """
    marked = marks["data"].iloc[0]
    found = [path.parent for path in sorted(Path(folder).glob(f"*/{RANKING}.csv")) if _listed_data(path) == marked]
    if len(found) > 1:
        raise ValueError(
            f"{len(found)} searches for wrong labels are of the data that were marked: {', '.join(map(str, found))}; "
            "say --run, the folder of the one whose networks shall be trained"
        )
    if not found:
        raise ValueError(
            f"no search for wrong labels in {folder} is of the data that were marked; say --run, the folder of the "
            "search"
        )
    return found[0]


def apply_marks(marks: pd.DataFrame, run: str | Path, out: str | Path, *, progress: bool = True) -> AppliedMarks:
    """Cleans the data of a search as its marks say, and trains the search's networks before and after.

    A table is written in its own format, with its columns as they were; arrays as `cleaned.npz`; a folder of images as
    the folder `cleaned`, see `write_cleaned`; of other data a table of ids and labels.

    Args:
        marks: As `read_marks` has them.
        run: Folder of the search.
        out: Result folder; created, or written anew if it holds what other marks made of the same search.
        progress: Whether to show progress bars.

    Raises:
        ValueError: If the folder belongs to another search, or marks are of other data, name a row or a class that
            there is not or a label that a row has not, or leave too little.
    """
    data, settings = _stored(run)
    examples = data.examples()
    if _id_of(examples) != marks["data"].iloc[0]:
        raise ValueError(
            f"the marks are of another data set than the search in {run}, or its labels changed; name the folder of "
            "the search whose page was marked"
        )
    names = every_class_name(examples)
    targets, kept = _changed(examples, marks, names)
    after = with_targets(examples, targets).at(kept)
    after.check_classes()
    touched = set(marks["row"][marks["mark"] != "keep"])
    same = torch.tensor([row for row in kept.tolist() if row not in touched])
    folder = StudyFolder(out, {"study": "marks", "run": str(run)})
    comparison, seeds, loss_change, accuracy_change = _compared(data, settings, examples, after, same, progress)
    with folder.writing():
        cleaned = write_cleaned(data, examples, after, names, folder.path)
    folder.write_table("marks", marks)
    folder.write_table("comparison", comparison)
    folder.write_table("seeds", seeds)
    counts = marks["mark"].value_counts()
    numbers = {
        name: int(counts.get(kind, 0)) for name, kind in zip(("kept", "relabelled", "dropped"), KINDS, strict=True)
    }
    return AppliedMarks(
        folder.path,
        cleaned,
        comparison=comparison,
        seeds=seeds,
        loss_change=loss_change,
        accuracy_change=accuracy_change,
        **numbers,
    )


def _listed_data(ranking: Path) -> str | None:
    """What the ranking of a search says its data are; None where a file of that name is no such ranking."""
    try:
        return pd.read_csv(ranking, nrows=1, dtype=str).get("data", pd.Series([None])).iloc[0]
    except (ValueError, IndexError):
        return None


def _stored(run: str | Path) -> tuple[LabelData, LabelSettings]:
    config = dict(StudyFolder.open(run).config)
    if config.pop("study", None) != "labels":
        raise ValueError(f"{run} holds no search for wrong labels")
    settings = LabelSettings.from_config(config.pop("settings"))
    return LabelData.from_config(config), settings


def _id_of(examples: Dataset) -> str:
    names = every_class_name(examples)
    return data_id(examples.ids.tolist(), [names[target] for target in examples.targets.tolist()])


def _changed(examples: Dataset, marks: pd.DataFrame, names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Targets of all examples, and the ids that stay."""
    known = dict(zip(examples.ids.tolist(), [names[target] for target in examples.targets.tolist()], strict=True))
    places = {name: index for index, name in enumerate(names)}
    targets, dropped = examples.targets.clone(), set()
    for mark in marks.to_dict("records"):
        if mark["row"] not in known:
            raise ValueError(f"row {mark['row']} is marked, but {examples.name} has no such row")
        if known[mark["row"]] not in _readings(mark["label"]):
            raise ValueError(
                f"row {mark['row']} is marked with the label {mark['label']!r}, but it has the label "
                f"{known[mark['row']]!r} in {examples.name}; take rows and labels from one line of labels.csv"
            )
        if mark["mark"] == "drop":
            dropped.add(mark["row"])
        elif mark["mark"] == "relabel":
            name = _class_of(mark["new_label"], places)
            targets[examples.positions(int(mark["row"]))] = places[name]
    kept = torch.tensor([row for row in examples.ids.tolist() if row not in dropped], dtype=torch.int64)
    return targets, kept


def _class_of(word: str, places: Mapping[str, int]) -> str:
    """A class as a file of marks has it."""
    for name in _readings(word):
        if name in places:
            return name
    raise ValueError(f"a row is relabelled {word!r}, which is no class; there are {', '.join(places)}")


def _readings(word: str) -> tuple[str, ...]:
    """What a cell may mean: itself, without the apostrophe that keeps it from being a formula, a whole number."""
    return word, word.removeprefix("'"), word.removesuffix(".0")


def _compared(
    data: LabelData, settings: LabelSettings, before: Dataset, after: Dataset, same: Tensor, progress: bool
) -> tuple[pd.DataFrame, pd.DataFrame, Interval, Interval]:
    """Held-out predictions of the untouched rows by networks that were trained before and after; how they changed."""
    shape, outputs = tuple(before.example.inputs.shape[1:]), data.n_outputs(before)
    rows, losses, rights, of_seeds = [], [], [], []
    for when, examples in (("before", before), ("after", after)):
        tried = held_out_predictions(
            data.schemes(len(examples)),
            lambda: data.network_for(shape, outputs),
            examples,
            settings.seeds,
            data.schedule(len(examples)),
            folds=settings.folds,
            progress=progress,
        )
        labels = examples.targets.cpu()
        own = [_losses(one.probabilities, labels) for one in tried]
        best = min(range(len(own)), key=lambda index: float(own[index].mean()))
        places = examples.positions(same).cpu()
        rights.append((tried[best].probabilities.argmax(dim=1) == labels)[places].double().numpy())
        losses.append(own[best][places].numpy())
        members = tried[best].members
        of_seeds.append(
            pd.DataFrame(
                {
                    "loss": [float(_losses(one, labels)[places].mean()) for one in members],
                    "accuracy": [float((one.argmax(dim=1) == labels)[places].double().mean()) for one in members],
                }
            )
        )
        rows.append(
            {"trained": when, "rows": len(examples), "judged": len(same), "accuracy": float(rights[-1].mean())}
            | {"loss": float(losses[-1].mean())}
        )
    seeds = of_seeds[0].join(of_seeds[1].add_suffix("_then")).join((of_seeds[1] - of_seeds[0]).add_suffix("_change"))
    seeds.insert(0, "seed", settings.seeds)
    return pd.DataFrame(rows), seeds, mean_interval(losses[1] - losses[0]), mean_interval(rights[1] - rights[0])


def _losses(probabilities: Float[Tensor, "n C"], labels: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    return -probabilities.gather(1, labels[:, None])[:, 0].clamp(min=torch.finfo().tiny).log()
