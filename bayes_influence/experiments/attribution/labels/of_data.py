"""The search for wrong labels in data that a command names, stored in a folder."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from bayes_influence.curvature.cost import tell
from bayes_influence.data.own_rows import OwnTable
from bayes_influence.experiments.attribution.labels.of_examples import search_labels
from bayes_influence.experiments.attribution.labels.result import RANKING, LabelIssues
from bayes_influence.experiments.attribution.labels.settings import LabelData, LabelSettings
from bayes_influence.experiments.store.folder import StudyFolder

LISTING = ("level", "listed", "evidence")
"""Settings that say what is listed of a search, and change no network that is trained without a part of the rows."""


@dataclass(frozen=True, eq=False)
class FoundLabels:
    """What was found, and where it is stored.

    Attributes:
        issues: The ranking.
        folder: With the page `labels.html`, `labels.csv`, `labels.parquet` where pyarrow is installed, and
            `config.json`.
    """

    issues: LabelIssues
    folder: Path


def find_in_data(
    data: LabelData, out: str | Path, settings: LabelSettings | None = None, *, progress: bool = True
) -> FoundLabels:
    """Searches all examples of a table or of arrays, and the training part of other data, for wrong labels.

    Args:
        data: Data and network.
        out: The result folder; created, or written anew if it holds a search with the same networks, whose held-out
            predictions are then taken: another level or length of the list needs no training of theirs.
        settings: What is done.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If the folder belongs to another search, or as `find_mislabelled`.
    """
    settings = settings or LabelSettings()
    examples = data.examples()
    trained = {name: value for name, value in settings.to_config().items() if name not in LISTING}
    folder = StudyFolder(out, {"study": "labels", **data.to_config(), "settings": trained})
    tell(
        f"search for wrong labels in {data.data_name}: {len(examples)} rows in {settings.folds} parts, each predicted "
        f"by {len(settings.seeds) * len(data.schemes(len(examples)))} networks that are trained on the others"
    )
    known = data.known()
    table = known if isinstance(known, OwnTable) else None
    shape, outputs = tuple(examples.example.inputs.shape[1:]), data.n_outputs(examples)
    issues = search_labels(
        examples,
        lambda: data.network_for(shape, outputs),
        data.schemes(len(examples)),
        data.schedule(len(examples)),
        settings,
        frame=None if table is None else table.frame,
        target=None if table is None else table.form.target[0],
        files=known.files,
        folder=folder,
        progress=progress,
    )
    with folder.writing():
        for ending in ("html", "parquet", "csv") if find_spec("pyarrow") else ("html", "csv"):
            issues.save(folder.path / f"{RANKING}.{ending}")
    return FoundLabels(issues, folder.path)
