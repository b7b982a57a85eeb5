"""Training runs: a network, a scheme and a data set in a folder of their own, continued where they were stopped."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from bayes_influence.arguments import check_whole
from bayes_influence.curvature.cost import tell
from bayes_influence.data.dataset import Split
from bayes_influence.data.fingerprint import fingerprint
from bayes_influence.data.own_rows import OwnTable
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.store.record import CHECKPOINT
from bayes_influence.experiments.training.referee import neglect
from bayes_influence.experiments.training.settings import TrainRun, completed
from bayes_influence.models.initialisation import initial_state
from bayes_influence.objectives.members import Members
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import Params
from bayes_influence.training.checkpoints import CheckpointError, encode_checkpoint, matching_state
from bayes_influence.training.minibatch import Trained, TrainingState, train_minibatches
from bayes_influence.training.prepared import prepared_objective
from bayes_influence.training.priors import network_at

logger = logging.getLogger(__name__)

ENCODING = "encoding.json"
"""How a table of the user's own becomes numbers: columns, categories, means, scales, what is imputed, classes."""

SECONDS = "seconds"
"""Cell and table of every epoch's wall time, all seeds together; apart from the checkpoint, whose bits it is not in."""


@dataclass(frozen=True, eq=False)
class _Start:
    """What a training starts from.

    Attributes:
        objective: What it minimises.
        params: Stacked parameters.
        buffers: Stacked buffers.
        config: What its checkpoint belongs to: the run's configuration, and the parameters of the warm start if any.
    """

    objective: Objective
    params: Params
    buffers: Params
    config: dict[str, Any]


def run_training(
    run: TrainRun,
    out: str | Path,
    *,
    data_folder: str | Path | None = None,
    progress: bool = True,
) -> tuple[Trained, Split]:
    """Trains a run in its folder: `config.json`, and after every epoch `checkpoint.safetensors` and its time.

    The same call on the same folder continues after the last finished epoch, and ends with the same bits as a run that
    was never stopped.

    Args:
        run: What to train.
        out: The run's folder; created, or continued if it holds the same run.
        data_folder: Where image sets are kept.
        progress: Whether to show a progress bar with loss, accuracy and time left.

    Returns:
        The trained networks, and the data.

    Raises:
        BusyError: If another process trains in the folder.
        ValueError: If the folder belongs to another run, or its checkpoint is damaged, or of another warm start.
        NonFiniteTrainingError: Naming scheme, seed and step.
    """
    folder = StudyFolder(out, {"study": "train", **run.to_config()})
    split = run.split(data_folder)
    known = run.known()
    with folder.writing():
        if isinstance(known, OwnTable):
            folder.write_file(ENCODING, json.dumps(known.encoding().to_config(), indent=2).encode())
        start = _starting_point(run, split, data_folder, checked=True)
        tell(_plan(run, start, split))
        return _trained(run, folder, start, split, progress), split


def _plan(run: TrainRun, start: _Start, split: Split) -> str:
    """What is going to be trained, in a sentence."""
    size = sum(value[0].numel() for value in start.params.values())
    shape = ", ".join(f"{name} {value}" for name, value in run.said_shape().items())
    schedule, count, options = run.schedule(), len(split.train), run.resolved_scheme().options
    moments = f" ({options['method']} moments, structure {options['structure']})" if "structure" in options else ""
    return (
        f"training of {run.data_name}: {count} training and {len(split.test)} test examples; {run.network}"
        f"{shape and f' ({shape})'}, {size} parameters, scheme {run.scheme}{moments}; {schedule.epochs} epochs of "
        f"{schedule.batches(count)} batches, {len(run.seeds)} network{'s' * (len(run.seeds) > 1)}"
    )


def load_run(
    folder: str | Path, *, index: int = 0, data_folder: str | Path | None = None, device: str | None = None
) -> tuple[Objective, Split, dict[str, Any]]:
    """A finished run: the objective at its parameters, the data it was trained and tested on, its configuration.

    Args:
        folder: Of the run.
        index: Which of its seeds.
        data_folder: Where image sets are kept.
        device: Where they go; where the run was trained when not given.

    Raises:
        FileNotFoundError: If the folder holds no run.
        ValueError: If the run is not finished, or has no such seed.
    """
    trained, split, config = load_trained(folder, data_folder=data_folder, device=device)
    return network_of(trained, config, index), split, config


def network_of(trained: Members, config: dict[str, Any], index: int) -> Objective:
    """One of the networks of a run, whose configuration has their seeds.

    Raises:
        TypeError: If the index is no whole number.
        ValueError: If the run has no such network.
    """
    check_whole(index=index)
    if not 0 <= index < len(trained):
        seeds = ", ".join(map(str, config["seeds"]))
        raise ValueError(f"the run has the seeds {seeds}: index must lie in 0..{len(trained) - 1}, got {index}")
    return trained.at(index)


def load_trained(
    folder: str | Path, *, data_folder: str | Path | None = None, device: str | None = None
) -> tuple[Trained, Split, dict[str, Any]]:
    """All networks of a finished run, with its data and configuration.

    Args:
        folder: Of the run.
        data_folder: Where image sets are kept.
        device: Where they go; where the run was trained when not given.

    Raises:
        FileNotFoundError: If the folder holds no run.
        ValueError: If it holds something else, or the run is not finished.
    """
    study = StudyFolder.open(folder)
    config = completed({name: value for name, value in study.config.items() if name != "study"})
    if study.config.get("study") != "train":
        raise ValueError(f"{folder} holds a study of another kind ({study.config.get('study')}), not a training run")
    run = TrainRun.from_config(config | ({} if device is None else {"device": device}))
    split = run.split(data_folder)
    start = _starting_point(run, split, data_folder, checked=False)
    start = replace(start, config=start.config | {"device": config["device"]})
    state = _stored_state(study, start.config)
    done, epochs = 0 if state is None else int(state["epoch"]), run.schedule().epochs
    if done < epochs:
        raise ValueError(f"the run in {folder} has finished {done} of {epochs} epochs; train it to its end first")
    return _trained(run, study, start, split, progress=False), split, config


def _starting_point(run: TrainRun, split: Split, data_folder: str | Path | None, *, checked: bool) -> _Start:
    """What a run starts from, a Bayesian twin `checked` where it has not been before."""
    scheme, config = run.resolved_scheme(), run.to_config()
    shape, n_outputs = split.train.example.inputs.shape[1:], run.n_outputs(split.train)
    make: Callable[[], nn.Module] = lambda: run.network_for(shape, n_outputs)  # noqa: E731
    if run.warm_start is not None:
        start, _, _ = load_run(run.warm_start, data_folder=data_folder)
        network = network_at(start)
        config["warm_start_params"] = fingerprint(params=start.params, buffers=start.buffers)
        make = lambda: network  # noqa: E731
    dtype = split.train.example.inputs.dtype
    params, buffers = initial_state(lambda: scheme.built(make), run.seeds, dtype=dtype, device=run.device)
    objective = prepared_objective(scheme, make, split.train, run.seeds[0], checked=checked).to(device=run.device)
    return _Start(objective, params, buffers, config)


def _trained(run: TrainRun, folder: StudyFolder, start: _Start, split: Split, progress: bool) -> Trained:
    scheme = run.resolved_scheme()
    clock = _Clock(folder)
    state = _stored_state(folder, start.config)
    if state is None and run.known().task == "classification" and start.objective.is_bayesian:
        logger.info("before training: %s", neglect(start.objective, split.train)["neglect"])

    def store(state: TrainingState) -> None:
        clock.finish(int(state["epoch"]))
        folder.write_file(CHECKPOINT, encode_checkpoint(state, start.config))

    return train_minibatches(
        start.objective,
        start.params,
        split.train,
        run.schedule(),
        run.seeds,
        buffers=start.buffers,
        averaging=scheme.averaging,
        step=scheme.step(start.objective, len(split.train)),
        labels=[f"{scheme.name}, seed {seed}" for seed in run.seeds],
        state=state,
        on_epoch=store,
        progress=progress,
    )


class _Clock:
    """Keeps the wall time of every epoch in the run's folder, also over interruptions."""

    def __init__(self, folder: StudyFolder) -> None:
        self._folder, self._began = folder, time.perf_counter()
        self._rows = epoch_seconds(folder).to_dict("index")

    def finish(self, epoch: int) -> None:
        """One more epoch is done."""
        now = time.perf_counter()
        self._rows[epoch] = {"seconds": now - self._began}
        self._began = now
        frame = pd.DataFrame.from_dict(self._rows, orient="index").rename_axis("epoch").reset_index()
        self._folder.save_cell(SECONDS, {SECONDS: frame})


def epoch_seconds(folder: StudyFolder) -> pd.DataFrame:
    """Wall time of every finished epoch (the index, from 1), all seeds together; empty for a run without any."""
    if not folder.cell_done(SECONDS):
        return pd.DataFrame({"seconds": []}, index=pd.Index([], name="epoch"))
    return folder.load_cell(SECONDS).tables[SECONDS].set_index("epoch")


def _stored_state(folder: StudyFolder, config: dict[str, Any]) -> TrainingState | None:
    """The state in the folder's checkpoint, None if there is none."""
    path = folder.path / CHECKPOINT
    if not path.exists():
        return None
    try:
        return matching_state(path.read_bytes(), config, completed)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
