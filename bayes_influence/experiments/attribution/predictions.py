"""Predictions of a finished run for the rows of a file, in the target's own words and units."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from bayes_influence.data.tables import Rows
from bayes_influence.experiments.attribution.new_rows import named_rows, read_new_rows
from bayes_influence.experiments.training.real_report import predict_real, predictions_table
from bayes_influence.experiments.training.report import predict_all
from bayes_influence.experiments.training.run import load_trained, network_of
from bayes_influence.experiments.training.settings import TrainRun
from bayes_influence.objectives.prediction import Prediction, predict

logger = logging.getLogger(__name__)


def predict_rows(
    run: str | Path, path: str | Path, rows: tuple[int, ...] = (), *, index: int = 0, device: str | None = None
) -> pd.DataFrame:
    """What a network of a run on a table predicts for new rows, as its report predicts the test examples.

    Args:
        run: Folder of a finished run.
        path: A CSV or Parquet file with the run's input columns; targets are not needed.
        rows: Which of its rows, from 0; all when none are named.
        index: Which of the run's seeds.
        device: Where it is computed; where the run was trained when not given.

    Rows for which the network computes what is no number are warned of by name and left empty.

    Returns:
        A row per row of the file: the predicted class and the probability of each class; or the probability of each
        label. Of real numbers a row per row and target: the mean, and both ends of its 95 % interval.

    Raises:
        FileNotFoundError: If there is no such run or file.
        ValueError: If the run is not finished or on no table of the user's own, or rows do not fit, see
            `read_new_rows`.
    """
    trained, split, config = load_trained(run, device=device)
    network = network_of(trained, config, index)
    new = read_new_rows(run, config, path, rows, network, with_targets=False)
    settings = TrainRun.from_config(config)
    known = settings.known()
    assert isinstance(known, Rows)  # or its rows had been refused
    if new.task == "regression":
        predicted = predict_real(trained.at(index), new.data, split.train)
        table = predictions_table(predicted, new.data, known.target_names, known.target_units())
        return _told(table.drop(columns="true").rename(columns={"id": "row"}), new.data.name)
    if new.task == "labels":
        found_labels = predict(network, new.data.batch().inputs)
        assert isinstance(found_labels, Prediction)
        names, shares = known.target_names, found_labels.probabilities[..., 1].reshape(len(new.data), -1)
    else:
        posterior = settings.resolved_scheme().posterior(network, split.train)
        names, shares = new.data.class_names, predict_all(trained, index, new.data, posterior=posterior).probabilities
    found = pd.DataFrame(shares.cpu().numpy(), columns=[f"p({name})" for name in names])
    if new.task == "classification":
        found.insert(0, "predicted", [names[row] for row in shares.argmax(dim=1).tolist()])
    found.insert(0, "row", new.data.ids.cpu().numpy())
    return _told(found, new.data.name)


def _told(found: pd.DataFrame, name: str) -> pd.DataFrame:
    """The predictions, with a warning of rows that have none, and nothing in their place."""
    lost = ~np.isfinite(found.select_dtypes("number").to_numpy(np.float64)).all(axis=1)
    if not lost.any():
        return found
    logger.warning(
        "%s: the network predicts no finite numbers for %s, whose predictions are left empty; correct what is wrong "
        "with the inputs there",
        name,
        named_rows(found["row"][lost].drop_duplicates().tolist()),
    )
    predicted = [column for column in found.columns if column not in ("row", "target")]
    return found.assign(**{column: found[column].where(~lost) for column in predicted})
