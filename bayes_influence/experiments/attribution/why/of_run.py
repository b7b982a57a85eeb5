"""Why a finished run predicts what it predicts of some of its test examples, stored in a folder of its own."""

from __future__ import annotations

from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import pandas as pd

from bayes_influence.curvature.cost import tell
from bayes_influence.data.appearance import class_name
from bayes_influence.data.dataset import Split
from bayes_influence.evaluation.agreement import MIN_POINTS
from bayes_influence.experiments.attribution.of_run import InfluenceRequest, files_of, units_of
from bayes_influence.experiments.attribution.pictures import drawn, is_pictured
from bayes_influence.experiments.attribution.ranking import with_files
from bayes_influence.experiments.attribution.why.asked import DAMPING, REFIT, asked_of_run
from bayes_influence.experiments.attribution.why.explanation import Explanation
from bayes_influence.experiments.attribution.why.of_classes import OfClasses
from bayes_influence.experiments.attribution.why.of_numbers import OfNumbers
from bayes_influence.experiments.attribution.why.question import Question
from bayes_influence.experiments.audit.of_networks import audit
from bayes_influence.experiments.audit.settings import AuditSettings
from bayes_influence.experiments.store.figures import save_figure
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.training.run import load_run
from bayes_influence.experiments.training.settings import TrainRun
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.prediction import predict_classes


def explain_run(
    run: str | Path,
    out: str | Path,
    request: InfluenceRequest,
    *,
    removals: int = 8,
    data_folder: str | Path | None = None,
    device: str | None = None,
    progress: bool = True,
) -> Explanation:
    """Explains the predicted classes or numbers of some test examples of a finished run.

    A regularised last layer is brought to its minimum first, where estimate and retraining mean the same, and takes a
    damping of `DAMPING` when none is asked for; other networks are explained as training left them.

    Writes tables, the verdict, and of images a picture per test example.

    Args:
        run: Folder of the run.
        out: The result folder; created, or written anew if it holds the same question with another `top`.
        request: Which test examples; `top` is the number of rows named of each kind, and removed together.
        removals: Training examples without which estimates are held against retraining.
        data_folder: Where image sets are kept.
        device: Where it is computed; where the run was trained when not given.
        progress: Whether to show progress bars.

    Raises:
        FileNotFoundError: If the folder holds no run.
        ValueError: If the run is not finished, predicts several labels at a time, or has not so many training examples.
    """
    objective, split, config = load_run(run, index=request.index, data_folder=data_folder, device=device)
    if TrainRun.from_config(config).known().task == "labels":
        raise ValueError(
            f"the run in {run} predicts several labels at a time; `bayes-influence influence` says which rows shaped "
            f"their loss"
        )
    if not MIN_POINTS <= removals < len(split.train) or request.top >= len(split.train):
        raise ValueError(
            f"of {len(split.train)} training examples {MIN_POINTS} to {len(split.train) - 1} can be removed, got "
            f"removals={removals} and top={request.top}"
        )
    count = len(request.positions(split.test))
    tell(f"explanation of {count} predictions of {run}, held against retraining without each of {removals} rows")
    objective, _ = request.standing(objective, split.train, progress=progress)
    question = _question(objective, split, request, config)
    asked = question.asked
    # How many rows are named can be asked anew.
    passed = ("test_ids", "on", "tests", "top")
    said = {name: value for name, value in request.to_config().items() if name not in passed}
    folder = StudyFolder(
        out, {"study": "why", "run": config, **said, "tests": asked.tests.ids.tolist(), "removals": removals}
    )
    if asked.exact and request.damping is None:
        request = replace(request, damping=DAMPING)
    effects = question.effects(request.influence(asked.objective, asked.train, progress=progress))
    settings = AuditSettings(removals=removals, curvature="hessian", damping=request.damping, refit_schedule=REFIT)
    found = audit(asked.network, asked.train, asked.tests, settings, progress=False)
    retrained = "the last layer" if asked.exact else "the selected parameters"
    verdict = f"Of rows removed one at a time, {retrained} retrained: {found.verdict.sentence}"
    files = files_of(config)
    tables = {
        "why": with_files(question.evidence(effects), files),
        "predictions": with_files(question.described(), files),
        "removed": question.removed(effects),
    }
    folder.write_file("verdict.txt", f"{verdict}\n".encode())
    for name, table in tables.items():
        folder.write_table(name, table)
    pictures = _drawn(folder, tables["predictions"], tables["why"], split) if isinstance(question, OfClasses) else ()
    return Explanation(
        folder.path,
        question,
        tables["predictions"],
        tables["why"],
        tables["removed"],
        verdict,
        pictures,
        _turned(objective, split, question) if asked.exact and isinstance(question, OfClasses) else (),
    )


def _turned(objective: Objective, split: Split, question: OfClasses) -> tuple[str, ...]:
    """Which test examples the last layer's minimum predicts otherwise than the network as training left it."""
    tests = split.test.select(question.positions).to(dtype=objective.dtype)
    classes = (predict_classes(objective, tests.batch().inputs).classes, question.before.classes)
    named = ([class_name(split.test, one) for one in own.tolist()] for own in classes)
    return tuple(
        f"test {position}: as training left it the network predicts {before}; explained is what it predicts at its "
        f"last layer's minimum, {after}"
        for position, before, after in zip(question.positions, *named, strict=True)
        if before != after
    )


def _drawn(folder: StudyFolder, predictions: pd.DataFrame, evidence: pd.DataFrame, split: Split) -> tuple[str, ...]:
    """Draws every test image with the training images for and against its class; the names of the files."""
    if not (is_pictured(split.train) and is_pictured(split.test)):
        return ()
    names, words = [], "loss of the predicted class"
    rows = evidence[evidence["measurement"] == "prediction"]
    for test in predictions.to_dict("records"):
        own = rows[rows["test"] == test["test"]].replace({"kind": {"for": "helpful", "against": "harmful"}})
        if own.empty:
            continue
        told = {
            "test_id": test["test_id"],
            "test_target": test["label"],
            "predicted_target": test["predicted"],
            "test_loss": -log(test["probability"]),
        }
        names.append(f"test-{test['test']}")
        save_figure(drawn(own.assign(**told), split.train, split.test, words), folder, names[-1])
    return tuple(names)


def _question(objective: Objective, split: Split, request: InfluenceRequest, config: dict[str, Any]) -> Question:
    """About classes, or about numbers in their own units."""
    positions = request.positions(split.test)
    asked = asked_of_run(objective, split.train, split.test.select(positions), request)
    if not split.train.targets.is_floating_point():
        return OfClasses(asked, positions, request.top)
    return OfNumbers(asked, positions, request.top, *units_of(config))
