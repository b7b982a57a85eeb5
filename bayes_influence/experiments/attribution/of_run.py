"""Which training examples shaped a run's predictions: scores of a finished training run, as a table and as pictures."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from bayes_influence.data.dataset import Dataset
from bayes_influence.data.reading import checksum
from bayes_influence.data.tables import Rows
from bayes_influence.experiments.attribution.new_rows import check_predictable, read_new_rows, without_targets
from bayes_influence.experiments.attribution.pictures import drawn, is_pictured
from bayes_influence.experiments.attribution.ranking import LOSS, Units, described_tests, ranked, with_files
from bayes_influence.experiments.store.figures import save_figure
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.store.settings import Settings
from bayes_influence.experiments.training.run import load_run
from bayes_influence.experiments.training.settings import TrainRun
from bayes_influence.influence.influence import Influence
from bayes_influence.influence.measurements import MEASUREMENTS
from bayes_influence.influence.scores import InfluenceScores
from bayes_influence.objectives.objective import Objective
from bayes_influence.training.minimum import minimised


@dataclass(frozen=True)
class InfluenceRequest(Settings):
    """What is asked of a run.

    Attributes:
        tests: Test examples by position in the run's test part, from 0; with `on`, rows of that file.
        test_ids: Further test examples, by id.
        top: How many training examples are ranked, of each kind.
        index: Which of the run's seeds.
        parameters: Where influence is taken, see `select_names`.
        curvature: As `Influence` takes it.
        solver: As `Influence` takes it.
        damping: delta; the automatic one when not given.
        measurement: What influence is on, a key of `MEASUREMENTS`; the loss when not given.
        polish: Whether those parameters are brought to their minimum before anything else, in float64.
        on: A CSV or Parquet file of rows that no test part has, all of which are explained if `tests` names none.

    Raises:
        ValueError: If a number is out of range, no test example is named, or one of new rows is named by id.
    """

    tests: tuple[int, ...] = ()
    test_ids: tuple[int, ...] = ()
    top: int = 10
    index: int = 0
    parameters: str = "last-layer"
    curvature: str = "hessian"
    solver: str = "auto"
    damping: float | None = None
    measurement: str | None = None
    polish: bool = False
    on: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(top=1, index=0)
        self.check_known(measurement=MEASUREMENTS)
        if self.on is not None and self.test_ids:
            raise ValueError(f"ids are of a run's own test part, the rows of {self.on} are numbered from 0; name tests")
        if self.on is None and not self.tests and not self.test_ids:
            raise ValueError(
                "influence needs at least one test example: by position (tests, --test), by id (test_ids, --test-id), "
                "or of `influence` a file of new rows (on, --on)"
            )

    def positions(self, test: Dataset) -> list[int]:
        """Where the asked examples stand in the run's test part, each once.

        Raises:
            ValueError: If one is not there.
        """
        unknown = [number for number in self.tests if not 0 <= number < len(test)]
        if unknown:
            raise ValueError(
                f"{test.name}: no test example {unknown[0]}; the {len(test)} test examples are numbered from 0 to "
                f"{len(test) - 1}; ids, from {int(test.ids.min())} to {int(test.ids.max())}, are given by test_ids "
                "(--test-id)"
            )
        by_id = test.positions(list(self.test_ids)).tolist() if self.test_ids else []
        return list(dict.fromkeys([*self.tests, *by_id]))

    def standing(self, objective: Objective, train: Dataset, *, progress: bool = True) -> tuple[Objective, str]:
        """The run's network as training left it, or at its minimum in the parameters that influence is taken in.

        A network that does not reach its minimum is taken where it ended; scores say how far that is.

        Returns:
            The objective, and what the polish changed, in a sentence; nothing where there was none.
        """
        if not self.polish:
            return objective, ""
        chosen, examples = objective.taking(self.parameters).to(dtype=torch.float64), train.to(dtype=torch.float64)
        found = minimised(chosen, examples, progress=progress)
        return found.members.at(0), found.sentences[0]

    def influence(self, objective: Objective, train: Dataset, *, progress: bool = True) -> Influence:
        """The estimate that is asked for."""
        damping = "auto" if self.damping is None else self.damping
        return Influence(
            objective,
            train,
            parameters=self.parameters,
            curvature=self.curvature,
            solver=self.solver,
            damping=damping,
            progress=progress,
        )


@dataclass(frozen=True, eq=False)
class RunInfluence:
    """Influence of a run's training examples on the loss of some of its test examples, or on another measurement.

    Attributes:
        folder: Where everything is stored.
        scores: All pairs.
        ranking: One row per test example, kind and rank: test (its position in the test part, or its row in a file),
            test_id, test_target, predicted_target, test_loss, kind, rank, train_id, train_target, removal; of images
            in a folder test_file and train_file, too.
        measured: What influence is on, in words.
        pictures: Names of the pictures in the folder, one per test image.
        polished: What the polish changed of the loss and its gradient, in a sentence; empty where there was none.
    """

    folder: Path
    scores: InfluenceScores
    ranking: pd.DataFrame
    measured: str
    pictures: tuple[str, ...]
    polished: str = ""


SCORES = "scores.safetensors"


def influence_of_run(
    run: str | Path,
    out: str | Path,
    request: InfluenceRequest,
    *,
    data_folder: str | Path | None = None,
    device: str | None = None,
    progress: bool = True,
) -> RunInfluence:
    """Scores every training example of a finished run on the loss, or on another measurement, of some test examples.

    Writes the scores (`scores.safetensors`, streamed: a killed run resumes), the ranking (`influence.csv`, and
    `influence.parquet` where pyarrow is installed), `config.json`, and for images one picture per test example.

    Args:
        run: Folder of a finished training run.
        out: The result folder; created, or continued if it holds the same request.
        request: What is asked.
        data_folder: Where image sets are kept.
        device: Where it is computed; where the run was trained when not given.
        progress: Whether to show progress bars.

    Raises:
        FileNotFoundError: If the folder holds no run.
        ValueError: If the run is not finished, a test example is unknown, there are fewer training examples than are to
            be ranked, or as `Influence`.
    """
    objective, split, config = load_run(run, index=request.index, data_folder=data_folder, device=device)
    if request.top > len(split.train):
        raise ValueError(f"top must lie in 1..{len(split.train)}, got {request.top}")
    objective, polished = request.standing(objective, split.train, progress=progress)
    asked = _asked(run, config, request, objective, split.test)
    chosen = asked.data
    # What is ranked of the scores can be asked anew; by which name a test example was asked for does not matter.
    said = {name: value for name, value in request.to_config().items() if name not in ("top", "test_ids", "on")}
    on = {} if request.on is None else {"on": checksum(Path(request.on))}
    folder = StudyFolder(out, {"study": "influence", "run": config, **said, **on, "tests": chosen.ids.tolist()})
    influence = request.influence(objective, split.train, progress=progress)
    path = folder.path / SCORES
    if asked.measurement is None:
        scores = influence.on_loss(chosen, path)
    else:
        scores = influence.on_measurement(MEASUREMENTS[asked.measurement], chosen, path)
    units = units_of(config)[0]
    tests = described_tests(objective, chosen, asked.positions, units)
    tests = tests if asked.has_targets else without_targets(tests, of_loss=asked.measurement is None)
    parts = [ranked(scores, split.train, test, request.top, units) for test in tests]
    ranking = with_files(pd.concat(parts, ignore_index=True), files_of(config))
    folder.write_table("influence", ranking)
    if find_spec("pyarrow"):
        folder.write_file("influence.parquet", ranking.to_parquet(index=False))
    pictures = []
    if is_pictured(split.train) and is_pictured(chosen):
        for test, rows in ranking.groupby("test", sort=False):
            pictures.append(f"test-{test}")
            save_figure(drawn(rows, split.train, chosen, asked.words), folder, pictures[-1])
    return RunInfluence(folder.path, scores, ranking, asked.words, tuple(pictures), polished)


@dataclass(frozen=True, eq=False)
class _Asked:
    """What is explained: test examples, where they stand, what is measured of them, and what that is called."""

    data: Dataset
    positions: Tensor
    has_targets: bool
    measurement: str | None
    words: str


def _asked(
    run: str | Path, config: dict[str, Any], request: InfluenceRequest, objective: Objective, test: Dataset
) -> _Asked:
    if request.on is None:
        chosen = test.select(request.positions(test))
        words = request.measurement or LOSS
        return _Asked(chosen, test.positions(chosen.ids), True, request.measurement, words)
    rows = read_new_rows(run, config, request.on, request.tests, objective)
    check_predictable(objective, rows.data)
    measurement, words = rows.measured(request.measurement)
    return _Asked(rows.data, rows.data.ids, rows.has_targets, measurement, words)


def files_of(config: dict[str, Any]) -> tuple[str, ...] | None:
    """The file of every example of a run by its id, where examples are in files of their own; else None."""
    return TrainRun.from_config(config).known().files


def units_of(config: dict[str, Any]) -> tuple[Units | None, tuple[str, ...]]:
    """Units and names of a run's real targets, where it is on data in memory; else None, and no names."""
    known = TrainRun.from_config(config).known()
    if isinstance(known, Rows) and known.task == "regression":
        return known.target_units(), known.target_names
    return None, ()
