"""Rows of a table that no test set has, as the encoding of a run takes them, and what can be measured on them."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any

import torch

from bayes_influence.data.dataset import Dataset
from bayes_influence.data.encoding import Encoding
from bayes_influence.data.reading import read_table
from bayes_influence.experiments.attribution.ranking import LOSS, predicted_targets
from bayes_influence.experiments.training.run import ENCODING
from bayes_influence.moments.arithmetic import mean_of
from bayes_influence.objectives.objective import Objective
from bayes_influence.torch_internals import tree_leaves

logger = logging.getLogger(__name__)

FAR = 1e4
"""Standard deviations from the training rows beyond which a number is warned of: no table has such rows by chance."""

NAMED = 10
"""Rows that a message names, at most."""

NOT_GIVEN = "not given"
"""What stands for the target of a row that has none."""


@dataclass(frozen=True, eq=False)
class NewRows:
    """Rows that are explained.

    Attributes:
        data: Encoded; ids number the rows of the file.
        has_targets: Whether the file says their targets; otherwise those in `data` are what the network predicts.
        task: What is predicted.
    """

    data: Dataset
    has_targets: bool
    task: str

    def measured(self, measurement: str | None) -> tuple[str | None, str]:
        """Which measurement is taken, None for the loss, and what it is in words.

        Without targets it is the loss of the predicted class (or labels), whose influence is that on its probability;
        of real numbers the prediction itself.

        Args:
            measurement: What was asked for.
        """
        if measurement is not None or self.has_targets:
            return measurement, measurement or LOSS
        if self.task == "regression":
            return "prediction", "prediction (in standard deviations of the target)"
        return None, "loss of the predicted " + ("labels" if self.task == "labels" else "class")


def read_new_rows(
    run: str | Path,
    config: dict[str, Any],
    path: str | Path,
    rows: tuple[int, ...],
    objective: Objective,
    *,
    with_targets: bool = True,
) -> NewRows:
    """Rows of a file, encoded as the run's training rows were.

    Args:
        run: Folder of the run.
        config: Its configuration.
        path: The CSV or Parquet file.
        rows: Which of its rows, from 0; all when none are named.
        objective: The run's network, which predicts where the file says no targets.
        with_targets: Whether targets are wanted where the file has some; else its columns of that name are not read.

    Raises:
        ValueError: If the run is on no table of the user's own, the file has no such row, an input column is missing or
            holds what the encoding does not know, or only some of the target columns are there.
        FileNotFoundError: If there is no such file.
    """
    stored = Path(run) / ENCODING
    if not stored.is_file():
        other = (
            "of such a run only the test part can be explained"
            if with_targets
            else "load its network and predict in Python, `load_run` and `predict`, see docs/your_own_data.md"
        )
        raise ValueError(
            f"new rows are encoded as those of a table were, and the run in {run} is on {config['dataset']}, which is "
            f"no table in a file; {other}"
        )
    encoding = Encoding.from_config(json.loads(stored.read_text()))
    path = Path(path)
    frame = read_table(path, "\t" if path.suffix == ".tsv" else config["separator"])
    if len(frame) == 0:
        raise ValueError(f"{path.name}: the table has no rows")
    unknown = [row for row in rows if not 0 <= row < len(frame)]
    if unknown:
        raise ValueError(f"{path.name}: there is no row {unknown[0]}; its rows are numbered from 0 to {len(frame) - 1}")
    chosen = list(dict.fromkeys(rows)) or list(range(len(frame)))
    frame = frame.iloc[chosen]
    if with_targets and any(column in frame.columns for column in encoding.target):
        data = encoding.dataset(frame, chosen, path.name)
        _warn_of_far_rows(data)
        return NewRows(data.to(dtype=objective.dtype, device=objective.device), True, encoding.task)
    inputs = encoding.inputs(frame, path.name)
    unknown_yet, ids = torch.zeros(len(inputs)), torch.tensor(chosen)
    held = Dataset(inputs, unknown_yet, ids, path.name, encoding.feature_names)
    _warn_of_far_rows(held)
    held = held.to(dtype=objective.dtype, device=objective.device)
    with torch.no_grad():
        outputs = objective.outputs(objective.params, held.inputs)
    means = mean_of(outputs)
    targets = predicted_targets(encoding.task, means, len(encoding.target))
    data = Dataset(held.inputs, targets, held.ids, path.name, encoding.feature_names, encoding.class_names)
    return NewRows(data, False, encoding.task)


def _warn_of_far_rows(data: Dataset) -> None:
    """Logs which rows hold numbers that have nothing to do with those that were trained on."""
    far = data.inputs.abs() > FAR
    rows = far.any(dim=1).nonzero()[:, 0].tolist()
    if rows:
        told = [f"{named_rows([int(data.ids[row])])} ({_furthest(data, row)})" for row in rows[:NAMED]]
        more = f" and {len(rows) - NAMED} rows more" if len(rows) > NAMED else ""
        logger.warning(
            "%s: %s%s: so far from the training rows that predictions there mean nothing; check units and spelling",
            data.name,
            ", ".join(told),
            more,
        )


def _furthest(data: Dataset, row: int) -> str:
    place = int(data.inputs[row].abs().argmax())
    return f"{data.feature_names[place]} lies {float(data.inputs[row, place].abs()):.2g} standard deviations off"


def named_rows(rows: list[int]) -> str:
    """Some rows by their numbers, the first `NAMED` of them.

    Args:
        rows: Their numbers in the file.
    """
    listed = ", ".join(map(str, rows[:NAMED])) + (", ..." if len(rows) > NAMED else "")
    return f"row{'s' * (len(rows) > 1)} {listed}"


def check_predictable(objective: Objective, data: Dataset) -> None:
    """Refuses rows for which the network computes what is no number.

    Args:
        objective: The network.
        data: The rows.

    Raises:
        ValueError: Naming them.
    """
    with torch.no_grad():
        outputs = objective.outputs(objective.params, data.inputs)
    finite = torch.stack([leaf.reshape(len(data), -1).isfinite().all(dim=1) for leaf in tree_leaves(outputs)]).all(0)
    if not finite.all():
        rows = data.ids[~finite].tolist()
        raise ValueError(
            f"{data.name}: the network predicts no finite numbers for {named_rows(rows)}; correct what is wrong with "
            f"the inputs there, or name the other rows"
        )


def without_targets(tests: list[dict[str, Any]], *, of_loss: bool) -> list[dict[str, Any]]:
    """What a ranking says about test examples, their targets not given.

    Args:
        tests: As `described_tests` says it.
        of_loss: Whether influence is on the loss of what is predicted; else there is no loss to tell.
    """
    return [test | {"test_target": NOT_GIVEN} | ({} if of_loss else {"test_loss": nan}) for test in tests]
