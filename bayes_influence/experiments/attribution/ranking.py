"""Training examples ranked by what their removal does to the loss of a test example."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import pandas as pd
import torch
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from bayes_influence.data.appearance import class_name, short_name
from bayes_influence.data.dataset import Dataset
from bayes_influence.influence.scores import InfluenceScores
from bayes_influence.influence.shown import KINDS
from bayes_influence.moments.arithmetic import mean_of
from bayes_influence.objectives.objective import Objective

Units = tuple[Tensor, Tensor]
"""Mean and standard deviation with which real targets were standardised: names of targets are in their own units."""

LOSS = "loss"
"""What influence is on when nothing else is measured."""


TABLES, NAMED = 3, 3
"""Test examples that are printed with a table each, and training examples named at each end where there are more."""


def heading(kind: str, measured: str) -> str:
    """What an end of a ranking is called: of a loss helpful or harmful, else what the example does to it."""
    if measured == LOSS:
        return f"most {kind}"
    return f"holds the {measured.split(' (')[0]} {'down' if kind == 'helpful' else 'up'}"


def described_tests(
    objective: Objective, tests: Dataset, positions: Tensor, units: Units | None = None
) -> list[dict[str, Any]]:
    """What a ranking says about each test example.

    Args:
        objective: The network.
        tests: The test examples.
        positions: Where each stands.
        units: Of real targets, see `Units`.
    """
    params = objective.params
    data = tests.to(dtype=next(iter(params.values())).dtype)
    with torch.no_grad():
        losses, outputs = objective.losses(params, data.batch()), objective.outputs(params, data.inputs)
    expected = mean_of(outputs)
    count = 1 if tests.targets.ndim == 1 else tests.targets[0].numel()
    predicted = predicted_targets(_task(tests), expected, count)
    return [
        {
            "test": int(positions[row]),
            "test_id": int(tests.ids[row]),
            "test_target": target_name(tests, tests.targets[row], units),
            "predicted_target": target_name(tests, predicted[row], units),
            "test_loss": losses[row].item(),
        }
        for row in range(len(tests))
    ]


def ranked(
    scores: InfluenceScores, train: Dataset, test: dict[str, Any], top: int, units: Units | None = None
) -> pd.DataFrame:
    """The `top` most helpful and most harmful training examples for one test example, see `RunInfluence.ranking`.

    None is on both lists, which are shorter where there are no two times `top`.

    Args:
        scores: Of this test example and others.
        train: The training examples.
        test: What `described_tests` says about the test example.
        top: How many, of each kind.
        units: Of real targets, see `Units`.
    """
    removal = scores.removal[scores.test_ids.tolist().index(test["test_id"])]
    frames = []
    for kind, ids in scores.ends(top, test["test_id"]).items():
        positions = train.positions(ids)
        columns = {
            "kind": kind,
            "rank": range(1, len(ids) + 1),
            "train_id": ids,
            "train_target": [target_name(train, target, units) for target in train.targets[positions]],
            "removal": removal[positions].cpu().numpy(),
        }
        frames.append(pd.DataFrame({**{name: [value] * len(ids) for name, value in test.items()}, **columns}))
    return pd.concat(frames, ignore_index=True)


def with_files(table: pd.DataFrame, files: Sequence[str] | None) -> pd.DataFrame:
    """A table with the file of every test and training example in a column beside its id, where they are in files.

    Args:
        table: With a column `test_id`, `train_id` or both.
        files: The file of every id; None where there are none.
    """
    found = table.copy()
    if files is None:
        return found
    for part in ("test", "train"):
        if f"{part}_id" in found:
            place = list(found.columns).index(f"{part}_id") + 1
            found.insert(place, f"{part}_file", [files[one] for one in found[f"{part}_id"]])
    return found


def named(row: Any, part: str = "train") -> str:
    """An example of a table's row by its id, with its file if it has one.

    Args:
        row: A row as `itertuples` has it.
        part: "test" or "train".
    """
    file = getattr(row, f"{part}_file", None)
    return f"{getattr(row, f'{part}_id')}{'' if file is None else ' ' + escape(short_name(file))}"


def predicted_targets(task: str, outputs: Tensor, count: int) -> Tensor:
    """What outputs predict, as targets are: classes, labels of 0 and 1, or real numbers without the noise beside them.

    Args:
        task: What is predicted.
        outputs: Of the network, or their expectations.
        count: Labels or numbers of an example.
    """
    if task == "classification":
        return outputs.argmax(dim=-1)
    rows = outputs.reshape(len(outputs), -1)[:, :count]
    return (rows > 0).to(outputs.dtype) if task == "labels" else rows


def _task(data: Dataset) -> str:
    """What targets say is predicted; real numbers that are all 0 or 1 are labels."""
    if not data.targets.is_floating_point():
        return "classification"
    return "labels" if bool(((data.targets == 0) | (data.targets == 1)).all()) else "regression"


def target_name(data: Dataset, target: Tensor, units: Units | None = None) -> str:
    """The name of a class, or real targets as numbers.

    Args:
        data: Which says what classes are called.
        target: Of one example.
        units: Of real targets, see `Units`.
    """
    if target.is_floating_point():
        values = target.reshape(-1).double().cpu()
        raw = values if units is None else values * units[1] + units[0]
        return ", ".join(f"{value:.4g}" for value in raw.tolist())
    return class_name(data, int(target))


def printed_rankings(ranking: pd.DataFrame, measured: str = LOSS, *, new: bool = False) -> list[Table]:
    """The ranking as it is printed: a table per test example, or of more than `TABLES` one with a row for each.

    Args:
        ranking: See `RunInfluence.ranking`.
        measured: What influence is on.
        new: Whether test examples are the rows of a file.
    """
    tests = [rows for _, rows in ranking.groupby("test", sort=False)]
    if len(tests) <= TABLES:
        return [_table_of_one(rows, measured, new) for rows in tests]
    left_out = "" if ranking["rank"].max() <= NAMED else f", the first {NAMED}; all that are ranked are in the files"
    table = Table(
        title=f"{len(tests)} {'new rows' if new else 'test examples'}",
        caption=f"training examples by id, and the predicted change of the {measured} when one is left out{left_out}",
    )
    lost = ranking["test_loss"].isna().all()
    for name in ("row" if new else "test", "target", "predicted", *(["loss"] * (not lost))):
        table.add_column(name, justify="right")
    for kind, (_, sign) in KINDS.items():
        table.add_column(f"{sign} {heading(kind, measured)}")
    for rows in tests:
        test = rows.iloc[0]
        ends = [rows[(rows["kind"] == kind) & (rows["rank"] <= NAMED)].itertuples() for kind in KINDS]
        first = [", ".join(f"{one.train_id} ({one.removal:+.1e})" for one in end) for end in ends]
        about = [str(test["test"]), escape(test["test_target"]), escape(test["predicted_target"])]
        table.add_row(*about, *([] if lost else [_loss_of(test)]), *first)
    return [table]


def _table_of_one(rows: pd.DataFrame, measured: str, new: bool) -> Table:
    """The ranking for one test example."""
    test = rows.iloc[0]
    which = f"row {test['test']}" if new else f"test {test['test']} (id {named(test, 'test')})"
    table = Table(
        title=f"{which}: {escape(test['test_target'])}, predicted "
        f"{escape(test['predicted_target'])}, {'loss ' * pd.notna(test['test_loss'])}{_loss_of(test)}".rstrip(", "),
        caption=f"removal: predicted change of the {measured} when the training example is left out",
    )
    table.add_column("rank", justify="right")
    for kind, (_, sign) in KINDS.items():
        table.add_column(f"{sign} {heading(kind, measured)}", justify="right")
        table.add_column("target")
        table.add_column("removal", justify="right")
    ends = [map(_cells, rows[rows["kind"] == kind].itertuples()) for kind in KINDS]
    for rank, pair in enumerate(zip_longest(*ends, fillvalue=("", "", "")), start=1):
        table.add_row(str(rank), *(cell for cells in pair for cell in cells))
    return table


def _cells(row: Any) -> tuple[str, str, str]:
    """A training example's id, target and effect in print."""
    return named(row), escape(str(row.train_target)), f"{row.removal:+.3e}"


def _loss_of(test: pd.Series) -> str:
    """A test example's loss in print; nothing where its target is not given."""
    return f"{test['test_loss']:.3g}" if pd.notna(test["test_loss"]) else ""
