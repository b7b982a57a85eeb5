"""What a stored folder or file holds: its kind, its configuration, its version, and what of it is finished.

Read without torch, so that the answer is there at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from bayes_influence.data.sealed import DamagedFileError, sealed_file_header
from bayes_influence.experiments.store.record import (
    CELL_SUFFIX,
    CELLS,
    CHECKPOINT,
    FAILURES,
    REPORT,
    read_study,
)
from bayes_influence.influence.score_format import FORMAT

KINDS = {
    "train": "training run",
    "train-schemes": "training of several schemes",
    "compare": "comparison of schemes",
    "audit": "audit of influence estimates",
    "influence": "influence of a run's training examples",
    "why": "explanation of a run's predictions",
    "labels": "search for wrong labels",
    "marks": "data cleaned by marks",
}
"""What a study is, by the name in its configuration."""

LAST = {
    "compare": "summary.csv",
    "train-schemes": "summary.csv",
    "audit": "verdict.txt",
    "influence": "influence.csv",
    "why": "removed.csv",
    "labels": "labels.csv",
    "marks": "comparison.csv",
}
"""What a study writes last."""

NETWORKS = "saved network"
"""The header of a file that `bi.save` wrote."""


@dataclass(frozen=True)
class Stored:
    """What was found.

    Attributes:
        path: Where.
        kind: What it is, in words.
        finished: What of it is finished, in words.
        facts: What else there is to say, by name.
        configuration: What it was made with, flat, by dotted names; what was left unsaid and is None is left out.
        versions: Of the software that it was made with.
    """

    path: Path
    kind: str
    finished: str
    facts: Mapping[str, str]
    configuration: Mapping[str, str]
    versions: Mapping[str, str]

    def lines(self) -> Iterator[tuple[str, str]]:
        """All of it, name by name."""
        yield str(self.path), self.kind
        yield "finished", self.finished
        yield from self.facts.items()
        if self.versions:
            yield "made with", ", ".join(f"{name} {version}" for name, version in self.versions.items())
        yield from self.configuration.items()


def inspected(path: str | Path) -> Stored:
    """What a folder or file of this library holds; nothing is written, and no network is built.

    Args:
        path: A folder with a `config.json`, a file of scores, or one of trained networks.

    Raises:
        FileNotFoundError: If there is nothing, or the folder holds no study.
        ValueError: If it is damaged, or nothing that this library wrote.
    """
    path = Path(path)
    if path.is_dir():
        return _of_folder(path)
    unfinished = path.with_name(path.name + ".unfinished")
    if not path.exists() and unfinished.exists():
        done = path.with_name(path.name + ".done")
        blocks = len(done.read_text().splitlines()) if done.exists() else 0
        return Stored(path, "influence scores", f"no, {blocks} blocks of them; the same call continues", {}, {}, {})
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder")
    try:
        header = sealed_file_header(path)
    except DamagedFileError as error:
        raise ValueError(f"{path} is no file of this library, or damaged: {error}") from error
    if header.get("format") == FORMAT:
        return _of_scores(path, json.loads(header["notes"]))
    if NETWORKS in header:
        return _of_networks(path, header[NETWORKS])
    kind = "part of a study's folder" if set(header) & {"cell", "checkpoint"} else f"a file with {', '.join(header)}"
    return Stored(path, f"{kind}; ask about the folder", "yes", {}, {}, {})


def _of_scores(path: Path, notes: Mapping[str, Any]) -> Stored:
    with safe_open(path, framework="numpy") as file:
        tests, examples = file.get_slice("values").get_shape()
    facts = {
        "scores": f"{examples} training on {tests} test examples",
        "measured": notes["measurement"],
        "in": notes["parameters"],
        "curvature": f"{notes['curvature']}, damping {notes['damping']}, {notes['solver']}",
        "converged": "yes" if notes["converged"] else "no",
    }
    return Stored(path, "influence scores", "yes", {name: said for name, said in facts.items() if said}, {}, {})


def _of_networks(path: Path, text: str) -> Stored:
    header = json.loads(text[text.index("{") :])
    facts = {"networks": ", ".join(header["labels"]), "class": str(header["kind"])}
    said = {name: header[name] for name in ("network", "likelihood", "regulariser", "regulariser_weight", "parameters")}
    return Stored(path, "trained networks", "yes", facts, _flat(said), header["versions"])


def _of_folder(path: Path) -> Stored:
    record = read_study(path)
    config = dict(record["config"])
    study = str(config.pop("study", "unnamed"))
    cells = sorted(file.name.removesuffix(CELL_SUFFIX) for file in (path / CELLS).glob(f"*{CELL_SUFFIX}"))
    results = sorted(file.name for file in path.iterdir() if file.is_file() and file.suffix in (".csv", ".png", ".txt"))
    facts = {"results": ", ".join(results) or "none"}
    if study != "train":
        facts["stored cells"] = f"{len(cells)}{': ' + '; '.join(cells) if cells else ''}"
    if f"{FAILURES}.csv" in results:
        facts["failed"] = f"some cells did, see {FAILURES}.csv; the same call tries them again"
    finished = _epochs(path, config, cells) if study == "train" else _whole(study, results)
    return Stored(path, KINDS.get(study, f"study: {study}"), finished, facts, _flat(config), record["versions"])


def _epochs(path: Path, config: Mapping[str, Any], cells: list[str]) -> str:
    """How far a training run came."""
    total = config["epochs"]
    if not (path / CHECKPOINT).is_file():
        return f"no, 0 of {total} epochs; the same command continues"
    try:
        if "checkpoint" not in sealed_file_header(path / CHECKPOINT):
            raise DamagedFileError("it is no checkpoint")
    except DamagedFileError as error:
        raise ValueError(f"{path / CHECKPOINT} is damaged: {error}; delete it to start anew") from error
    with safe_open(path / CHECKPOINT, framework="numpy") as file:
        done = int(file.get_tensor("epoch"))
    if done < total:
        return f"no, {done} of {total} epochs; the same command continues"
    return f"yes, {total} epochs" + ("" if REPORT in cells else ", but not its report; the same command writes it")


def _whole(study: str, results: list[str]) -> str:
    """Whether a study's last result is there."""
    if study not in LAST:
        return "see its results"
    return "yes" if LAST[study] in results else "no; the same command continues"


def _flat(config: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """Dotted names with their values as text."""
    found: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{before}{name}.")
        elif value is not None and value not in ([], ()):
            found[f"{before}{name}"] = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return found
