"""One page of suspicious labels that needs no other file, server or network: to sort, search, mark and export."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from shlex import quote
from typing import TYPE_CHECKING, Any

import pandas as pd
from jinja2 import Environment, PackageLoader

from bayes_influence.data.appearance import Appearance
from bayes_influence.influence.shown import picture_url

if TYPE_CHECKING:
    from bayes_influence.experiments.attribution.labels.result import LabelIssues

ROWS = ("supporting", "opposing", "proposing", "twins")
"""Columns of ids, separated by blanks."""

NUMBERS = ("wrong", "false_discovery_rate", "loss", "margin", "epistemic", "self_influence")


def page_of(issues: LabelIssues) -> str:
    """The page; everything in it that came with the data is escaped.

    Args:
        issues: What was found; the rows with evidence are on the page.
    """
    pages = Environment(loader=PackageLoader("bayes_influence.experiments.attribution.labels"), autoescape=True)
    listed = issues.ranked[issues.ranked["row"].isin(list(issues.looks))].head(issues.listed)
    return pages.get_template("page.html").render(
        name=issues.name,
        sentence=issues.sentence,
        command=None if issues.folder is None else f"bayes-influence apply marks.csv --run {quote(str(issues.folder))}",
        data={
            "id": data_id(issues.ranked["row"].tolist(), issues.ranked["label"].tolist()),
            "classes": list(issues.class_names),
            "rows": [_row(rank, row) for rank, row in enumerate(listed.to_dict("records"))],
            "looks": {str(row): _look(one) for row, one in issues.looks.items()},
        },
    )


def data_id(rows: Sequence[int], labels: Sequence[str]) -> str:
    """What tells one set of rows and labels from another: marks are of one set."""
    pairs = sorted(zip(rows, labels, strict=True))
    return sha256(repr([(int(row), str(label)) for row, label in pairs]).encode()).hexdigest()[:16]


def _row(rank: int, row: dict[Any, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {name: None if pd.isna(row[name]) else float(row[name]) for name in NUMBERS}
    found |= {name: [int(word) for word in row[name].split()] for name in ROWS}
    found |= {"rank": rank, "row": int(row["row"]), "label": row["label"], "proposed": row["proposed"]}
    found["flagged"] = bool(row["flagged"])
    return found | ({"file": row["file"]} if "file" in row and not pd.isna(row["file"]) else {})


def _look(appearance: Appearance) -> dict[str, str]:
    picture = "" if appearance.picture is None else picture_url(appearance.picture)
    return {"label": appearance.label, "text": appearance.text, "picture": picture}
