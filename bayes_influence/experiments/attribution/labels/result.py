"""`LabelIssues`: the labels that are likely to be wrong, as a table, in files, and in words."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.markup import escape
from rich.table import Table

from bayes_influence.data.appearance import Appearance, short_name
from bayes_influence.data.files import checked_place, guarded, write_whole
from bayes_influence.evaluation.intervals import Interval
from bayes_influence.experiments.attribution.labels.page import data_id, page_of

RANKING = "labels"
"""Name of a stored ranking's files."""

PRINTED = 20
"""Rows that are printed."""

UNFINISHED = 0.05
"""Share of the held-out loss that a longer training must not surely take away. After 200 steps on eight tables of
`benchmarks/label_errors.py` it took 0.5 % at most, after 12 steps a tenth to a third on six."""

UNKNOWN = "not known"
"""What stands for a rate that cannot be told."""


@dataclass(frozen=True, eq=False, repr=False)
class LabelIssues:
    """Which labels are likely to be wrong.

    Attributes:
        name: What the data are called.
        ranked: One row per example, the most suspicious first. row: its id. index: its name in a frame that has
            other names than numbers from 0. file: of an image. label, proposed: the class that it has, and the most
            probable other one. wrong: probability that the label is wrong. false_discovery_rate: expected share of
            right labels in the list that ends here, NaN where it is not known. flagged: whether that is at most
            `level`. loss, margin, predicted, epistemic, aleatoric: of held-out predictions, with the label.
            self_influence: in a network that was trained on everything. twins: rows that are the same but for the
            label. supporting, opposing, proposing: rows that argue for the label, against it, and for the proposed
            one, see `LabelEvidence`; of listed rows only.
        level: Highest expected share of right labels among those that are flagged.
        noise_rate: Estimated share of wrong labels.
        doubt: Why no rate can be told, see `doubt_of_rate`, with none flagged; None where one can.
        scheme: How the networks were regularised.
        agreement: Share of the labels that held-out networks predict.
        longer: By how much held-out losses fall, per label, when a network is trained twice as long.
        class_names: One per class.
        looks: What the listed rows, and those that argue, look like, by id.
        listed: How many rows, the first ones, have evidence.
        frame: The table that the examples are rows of, as it was read.
        target: Its column with the labels.
        folder: Where the search is stored, which marks are then applied to; None where it is not.
    """

    name: str
    ranked: pd.DataFrame
    level: float
    noise_rate: float
    doubt: str | None
    scheme: str
    agreement: float
    longer: Interval
    class_names: tuple[str, ...]
    looks: Mapping[int, Appearance]
    listed: int
    frame: pd.DataFrame | None = None
    target: str | None = None
    folder: Path | None = None

    @property
    def flagged(self) -> pd.DataFrame:
        """Those rows of `ranked`."""
        return self.ranked[self.ranked["flagged"]]

    @property
    def sentence(self) -> str:
        """What was found, in a few words."""
        count, total = len(self.flagged), len(self.ranked)
        if self.doubt is not None:
            found = (
                f"rate: not known, as {self.doubt}. None of {total} labels is flagged, and `wrong` puts them in an "
                "order and is no probability; search with a network that suits the data better, or with more data"
            )
        else:
            level = f"{100 * self.level:.3g}%"
            found = f"{count} of {total} labels are flagged, of which {level} at most are expected to be right"
            found = found if count else f"none of {total} labels is flagged"
            if count > self.listed:
                found += f"; evidence, and a line on the page, have the first {self.listed}"
            found += (
                f". Estimated share of wrong labels: {self.noise_rate:.1%}; held-out networks predict "
                f"{self.agreement:.1%} of the labels"
            )
        loss = float(self.ranked["loss"].mean())
        if not (self.longer.low > 0 and self.longer.estimate > UNFINISHED * loss):
            return found
        return (
            f"{found}. Trained twice as long they are better by {self.longer.estimate:.2g} of {loss:.2g} nats a label: "
            "right labels that they have not learned yet are taken for wrong ones; search with more epochs"
        )

    def __repr__(self) -> str:
        return f"LabelIssues({self.name!r}: {self.sentence})"

    def save(self, path: str | Path) -> None:
        """Writes the ranking as `.csv` or `.parquet`, or the listed rows as a page, `.html`; whole.

        A last column of the tables, `data`, says in every row whose rows these are: a file of marks repeats it.

        Raises:
            ValueError: If the suffix is another, or something stands there that is no file.
            TypeError: If this is no path.
            ImportError: If nothing is installed that writes Parquet.
            OSError: If it cannot be written.
        """
        place = checked_place(path, "label issues")
        kind = place.suffix.lower()
        table = self.ranked.assign(data=data_id(self.ranked["row"].tolist(), self.ranked["label"].tolist()))
        if kind == ".csv":
            content = guarded(table).to_csv(index=False).encode()
        elif kind == ".parquet":
            buffer = io.BytesIO()
            table.to_parquet(buffer, index=False)
            content = buffer.getvalue()
        elif kind == ".html":
            content = page_of(self).encode()
        else:
            raise ValueError(f"{place.name} must end in .csv, .parquet or .html, got {kind!r}")
        write_whole(place, content)


def printed_issues(issues: LabelIssues, count: int = PRINTED) -> Table:
    """The most suspicious rows, as they are printed.

    Args:
        issues: What was found.
        count: How many rows.
    """
    table = Table(title=f"{escape(issues.name)}: labels that are likely to be wrong")
    columns = ("row", "label", "proposed", "wrong", "false discovery rate", "loss", "margin", "epistemic")
    files = ("file",) if "file" in issues.ranked else ()
    for column in (columns[0], *files, *columns[1:], "self-influence", "for", "against", ""):
        textual = column in ("file", "label", "proposed", "for", "against", "")
        table.add_column(column, justify="left" if textual else "right")
    numbers = ("wrong", "false_discovery_rate", "loss", "margin", "epistemic", "self_influence")
    for row in issues.ranked.head(count).to_dict("records"):
        words = [escape(str(row[name])) for name in ("row", "label", "proposed")]
        words[1:1] = [escape(short_name(row[name])) for name in files]
        evidence = (row["supporting"], row["opposing"], "flagged" if row["flagged"] else "")
        told = ["" if pd.isna(row[name]) else f"{row[name]:.3g}" for name in numbers]
        if issues.doubt is not None:
            told[numbers.index("false_discovery_rate")] = UNKNOWN
        table.add_row(*words, *told, *evidence)
    return table
