"""Which training examples shaped a run's predictions: scores of a finished training run, as a table and as pictures."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from bayes_influence.data.dataset import Dataset
from bayes_influence.experiments.attribution.pictures import influence_figure, is_pictured
from bayes_influence.experiments.attribution.ranking import LOSS, described_tests, ranked
from bayes_influence.experiments.store.figures import save_figure
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.store.settings import Settings
from bayes_influence.experiments.training.run import load_run
from bayes_influence.influence.influence import Influence
from bayes_influence.influence.measurements import MEASUREMENTS
from bayes_influence.influence.scores import InfluenceScores
from bayes_influence.objectives.objective import Objective


@dataclass(frozen=True)
class InfluenceRequest(Settings):
    """What is asked of a run.

    Attributes:
        tests: Test examples by position in the run's test part, from 0.
        test_ids: Further test examples, by id.
        top: How many training examples are ranked, of each kind.
        index: Which of the run's seeds.
        parameters: Where influence is taken, see `select_names`.
        curvature: As `Influence` takes it.
        solver: As `Influence` takes it.
        damping: delta; the automatic one when not given.
        measurement: What influence is on, a key of `MEASUREMENTS`; the loss when not given.

    Raises:
        ValueError: If a number is out of range, or no test example is named.
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

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(top=1, index=0)
        self.check_known(measurement=MEASUREMENTS)
        if not self.tests and not self.test_ids:
            raise ValueError("influence needs at least one test example, by position or by id")

    @property
    def measured(self) -> str:
        """What influence is on, in words."""
        return self.measurement or LOSS

    def positions(self, test: Dataset) -> list[int]:
        """Where the asked examples stand in the run's test part, each once.

        Raises:
            ValueError: If one is not there.
        """
        unknown = [number for number in self.tests if not 0 <= number < len(test)]
        if unknown:
            raise ValueError(
                f"{test.name}: no test example {unknown[0]}; the {len(test)} test examples are numbered from 0 to "
                f"{len(test) - 1}; name an id, from {int(test.ids.min())} to {int(test.ids.max())}, as such"
            )
        by_id = test.positions(list(self.test_ids)).tolist() if self.test_ids else []
        return list(dict.fromkeys([*self.tests, *by_id]))

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
        ranking: One row per test example, kind and rank: test (its position in the test part), test_id, test_class,
            predicted_class, test_loss, kind, rank, train_id, train_class, removal.
    """

    folder: Path
    scores: InfluenceScores
    ranking: pd.DataFrame


SCORES = "scores.safetensors"


def influence_of_run(
    run: str | Path,
    out: str | Path,
    request: InfluenceRequest,
    *,
    data_folder: str | Path | None = None,
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
        progress: Whether to show progress bars.

    Raises:
        FileNotFoundError: If the folder holds no run.
        ValueError: If the run is not finished, a test example is unknown, there are fewer training examples than are to
            be ranked, or as `Influence`.
    """
    objective, split, config = load_run(run, index=request.index, data_folder=data_folder)
    chosen = split.test.select(request.positions(split.test))
    if request.top > len(split.train):
        raise ValueError(f"top must lie in 1..{len(split.train)}, got {request.top}")
    # What is ranked of the scores can be asked anew; by which name a test example was asked for does not matter.
    asked = {name: value for name, value in request.to_config().items() if name not in ("top", "test_ids")}
    folder = StudyFolder(out, {"study": "influence", "run": config, **asked, "tests": chosen.ids.tolist()})
    influence = request.influence(objective, split.train, progress=progress)
    path = folder.path / SCORES
    if request.measurement is None:
        scores = influence.on_loss(chosen, path)
    else:
        scores = influence.on_measurement(MEASUREMENTS[request.measurement], chosen, path)
    tests = described_tests(objective, chosen, split.test.positions(chosen.ids))
    ranking = pd.concat([ranked(scores, split.train, test, request.top) for test in tests], ignore_index=True)
    folder.write_table("influence", ranking)
    if find_spec("pyarrow"):
        folder.write_file("influence.parquet", ranking.to_parquet(index=False))
    if is_pictured(split.train):
        for test, rows in ranking.groupby("test", sort=False):
            figure = influence_figure(rows, split.train, chosen, request.measured)
            save_figure(figure, folder, f"test-{test}")
    return RunInfluence(folder.path, scores, ranking)
