"""What was found of why a run predicts what it predicts, and how it is printed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.markup import escape
from rich.table import Table

from bayes_influence.experiments.attribution.ranking import named
from bayes_influence.experiments.attribution.why.question import Question


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why a run predicts what it predicts of some test examples.

    Attributes:
        folder: Where the tables are stored, as CSV.
        question: What was asked.
        predictions: One row per test example (and predicted number). test: its position; test_id. Of classes: label,
            predicted, probability of that class; entropy, epistemic and aleatoric uncertainty in nats. Of numbers:
            target, true, predicted, the ends of the 95 % interval, and deviation, in the target's units.
        evidence: One row per test example, measurement and rank. measurement: "prediction", the loss of the predicted
            class or the predicted number; "epistemic", "aleatoric", uncertainties; kind: "for" what holds
            the prediction, or the certainty, up, so that removing it raises the loss or the uncertainty, "against" the
            opposite; of a number "up" what holds it up, so that removing it lowers the number, "down" the opposite;
            train_id, train_target, removal. Of images in a folder both tables have test_file and train_file, too.
        removed: Per test example what removing the rows of `removed_ids`, where there are any, together does,
            estimated (the sum of their effects) and retrained. Of classes these are the first for the prediction, the
            change is that of the predicted class's loss, and the predicted class and its probability then are given;
            of numbers the first of either kind, the change of the number, and number and deviation then.
        verdict: How far estimates can be trusted, from retraining without a few examples.
        pictures: Names of the pictures in the folder, one per test image.
        notes: Which test examples are predicted otherwise at the last layer's minimum than as training left it.
    """

    folder: Path
    question: Question
    predictions: pd.DataFrame
    evidence: pd.DataFrame
    removed: pd.DataFrame
    verdict: str
    pictures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def printed_explanation(found: Explanation) -> list[Table]:
    """One table per test example, as it is printed.

    Args:
        found: The explanation.
    """
    tables = []
    for test, described in found.predictions.groupby("test", sort=False):
        rows = found.evidence[found.evidence["test"] == test]
        table = Table(title=found.question.title(described), caption=found.question.caption)
        table.add_column("rank", justify="right")
        wanted = list(dict.fromkeys(zip(rows["measurement"], rows["kind"], strict=True)))
        for measurement, kind in wanted:
            table.add_column(escape(found.question.heading(measurement, kind)))
        for rank in sorted(rows["rank"].unique()):
            cells = [
                rows[(rows["measurement"] == name) & (rows["kind"] == kind) & (rows["rank"] == rank)].itertuples()
                for name, kind in wanted
            ]
            table.add_row(str(rank), *(next(map(_cell, one), "") for one in cells))
        tables.append(table)
    return tables


def _cell(row: Any) -> str:
    return f"{named(row)} ({escape(str(row.train_target))}): {row.removal:+.2e}"


def removal_sentences(found: Explanation) -> list[str]:
    """What predictions are without their first rows, a sentence for each.

    Args:
        found: The explanation.
    """
    return [found.question.sentence(row) for _, row in found.removed.iterrows()]
