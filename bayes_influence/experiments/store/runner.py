"""Computes the independent cells of a study in parallel, storing each as it finishes."""

from __future__ import annotations

import hashlib
import logging
import os
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from math import ceil
from typing import TypeVar

import pandas as pd
import torch
from joblib import Parallel, cpu_count, delayed, effective_n_jobs, parallel_config
from joblib.parallel import get_active_backend
from tqdm.auto import tqdm

from bayes_influence.curvature.cost import Plan, ProgressLines, announce
from bayes_influence.errors import BayesInfluenceError
from bayes_influence.experiments.store.cells import CellResult, checked_key
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.store.record import FAILURES
from bayes_influence.training.threads import torch_threads

logger = logging.getLogger(__name__)

Cell = TypeVar("Cell")


class FailedCellsError(BayesInfluenceError, RuntimeError):
    """Some cells raised; all others are stored.

    Attributes:
        failures: The traceback of each failed cell by its key.
    """

    def __init__(self, failures: Mapping[str, str], n_cells: int, folder: StudyFolder) -> None:
        self.failures = dict(failures)
        listed = "; ".join(f"{key}: {text.strip().splitlines()[-1]}" for key, text in self.failures.items())
        super().__init__(
            f"{len(self.failures)} of {n_cells} cells failed, the others are stored in {folder.path}. {listed}"
        )


CLUSTERS = ("dask", "ray")
"""Backends that need their package, and a cluster that the user has started."""

BACKENDS = ("loky", "multiprocessing", "threading", *CLUSTERS)
"""What joblib can run cells on. With "multiprocessing" and "ray" the cells of a turn, one for each job, are stored
together."""


@contextmanager
def workers(backend: str | None) -> Iterator[None]:
    """Runs the cells of a block on a backend of joblib; on joblib's own choice where None.

    Args:
        backend: One of `BACKENDS`. "dask" takes the current `dask.distributed.Client`, "ray" the current ray session;
            where the number of jobs is not said, it is the cluster's.

    Raises:
        ValueError: If there is no such backend, or it is not ready: its package is missing, or no cluster is there.
    """
    if backend is None:
        yield
        return
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; known: {', '.join(BACKENDS)}")
    try:
        if backend == "ray":
            import_module("ray.util.joblib").register_ray()
        chosen = parallel_config(backend=backend, **({"n_jobs": -1} if backend in CLUSTERS else {}))
    except (ImportError, ValueError) as error:
        raise ValueError(f"the backend {backend} is not ready: {error}; install it, and start its cluster") from error
    with chosen:
        yield


def jobs_at_once(n_cells: int, n_jobs: int | None = None) -> int:
    """How many of the cells are computed at once.

    Args:
        n_cells: Cells that wait.
        n_jobs: As in joblib. `None` takes what `joblib.parallel_config` says, else a job for each cell, but no more
            than the cores that this process may use: those of its container, where it is in one.
    """
    said = get_active_backend()[1] if n_jobs is None else n_jobs
    return min(effective_n_jobs(-1), max(n_cells, 1)) if said is None else effective_n_jobs(said)


@dataclass(frozen=True)
class RunReport:
    """What a run of a study did.

    Attributes:
        computed: Keys of the cells computed now, in the order of the study.
        skipped: Keys of the cells that were stored already.
    """

    computed: tuple[str, ...]
    skipped: tuple[str, ...]


def run_cells(
    cells: Mapping[str, Cell],
    compute: Callable[[Cell], CellResult],
    folder: StudyFolder,
    n_jobs: int | None = None,
    progress: bool = True,
    plan: Plan | None = None,
) -> RunReport:
    """Computes every cell that `folder` does not hold yet and stores each as it finishes.

    A cell's result depends on the cell alone: it runs with torch's global generator seeded from its key (and
    restored after), so neither the order nor the number of jobs changes anything; jobs that are threads of one process
    share that generator, so there `compute` must use generators of its own. A killed run loses the cells in flight.
    Several jobs share the cores: each gets `cores // jobs` torch threads.

    Args:
        cells: What `compute` takes, by the key under which the result is stored (`cell_key` makes one).
        compute: Importable by name when the backend uses processes.
        folder: Where results are stored; finished cells in it are not computed again.
        n_jobs: Cells at once, see `jobs_at_once`; as many as there are cores, when not given. The backend is that of
            `joblib.parallel_config`.
        progress: Show a bar with the time left, if a terminal watches.
        plan: Of the whole work, else it is so many cells; announced when the first one is done, with its time for every
            cell that waits in turn.

    Returns:
        Which cells were computed and which were there already.

    Raises:
        ValueError: If a key cannot be a file name; before any work is done.
        BusyError: If another process, or another thread, works in the folder.
        FailedCellsError: If cells raised; after all others have been stored, and these recorded in `failures.csv`.
        KeyboardInterrupt: On Ctrl-C, saying how many cells are stored and where.
    """
    for key in cells:
        checked_key(key)
    with folder.writing():
        return _run(cells, compute, folder, n_jobs, progress, plan)


def _run(
    cells: Mapping[str, Cell],
    compute: Callable[[Cell], CellResult],
    folder: StudyFolder,
    n_jobs: int | None,
    progress: bool,
    plan: Plan | None,
) -> RunReport:
    skipped = tuple(key for key in cells if folder.cell_done(key))
    pending = {key: cell for key, cell in cells.items() if key not in set(skipped)}
    jobs = jobs_at_once(len(pending), n_jobs)
    threads = max(1, cpu_count() // jobs) if jobs > 1 else None
    failures: dict[str, str] = {}
    bar = tqdm(total=len(cells), initial=len(skipped), desc=folder.path.name, disable=None if progress else True)
    try:
        # Also around the whole run: a backend of threads hands this setting on to its workers.
        with bar, _threads(threads):
            began, turns = time.perf_counter(), ceil(len(pending) / jobs)
            lines = ProgressLines("cell", len(cells), done=len(skipped), hidden=not (progress and bar.disable))
            heard: set[str] = set()
            for number, (key, outcome, said) in enumerate(_outcomes(pending, compute, jobs, threads)):
                for sentence in dict.fromkeys(said):
                    if sentence not in heard:
                        logger.warning("%s", sentence)
                heard.update(said)
                if number == 0 and turns > 1:
                    work = f"{len(pending)} cells, {jobs} at a time" if plan is None else plan
                    announce(work, (time.perf_counter() - began) * turns)
                _store(folder, key, outcome, failures)
                bar.update()
                lines.reached(len(skipped) + number + 1, key)
    except KeyboardInterrupt:
        stored = sum(folder.cell_done(key) for key in cells)
        raise KeyboardInterrupt(
            f"interrupted: {stored} of {len(cells)} cells are stored in {folder.path}; run the same study again to "
            "continue"
        ) from None
    _record(folder, {key: failures[key] for key in pending if key in failures})
    if failures:
        raise FailedCellsError({key: failures[key] for key in pending if key in failures}, len(cells), folder)
    return RunReport(computed=tuple(pending), skipped=skipped)


def _record(folder: StudyFolder, failures: Mapping[str, str]) -> None:
    """Writes what failed, with its traceback, into the folder; nothing is left of an earlier run's failures."""
    if failures:
        folder.write_table(FAILURES, pd.DataFrame({"cell": list(failures), "error": list(failures.values())}))
    else:
        (folder.path / f"{FAILURES}.csv").unlink(missing_ok=True)


def _outcomes(
    pending: Mapping[str, Cell], compute: Callable[[Cell], CellResult], jobs: int, threads: int | None
) -> Iterator[tuple[str, CellResult | str, list[str]]]:
    """Results or tracebacks of the pending cells, and what they warned of in other processes.

    Each as it finishes, or in turns where a backend hands over lists.
    """
    caller = os.getpid()
    tasks = [delayed(_compute)(key, cell, compute, threads, caller) for key, cell in pending.items()]
    # One cell per task: joblib would otherwise batch quick ones and hand their results over late.
    if get_active_backend()[0].supports_return_generator:
        yield from Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1)(tasks)
        return
    for first in range(0, len(tasks), jobs):
        yield from Parallel(n_jobs=jobs, batch_size=1)(tasks[first : first + jobs])


def _compute(
    key: str, cell: Cell, compute: Callable[[Cell], CellResult], threads: int | None, caller: int
) -> tuple[str, CellResult | str, list[str]]:
    """One cell, in a worker: its result, or its traceback; and its warnings, where the caller does not hear them."""
    with _overheard(elsewhere=os.getpid() != caller) as said:
        try:
            with _threads(threads), _seeded(key):
                result = compute(cell)
            if not isinstance(result, CellResult):
                raise TypeError(f"compute must return a CellResult, got {type(result).__name__}")
            return key, result, said
        except Exception:
            return key, traceback.format_exc(), said


class _Listener(logging.Handler):
    """Keeps what is logged."""

    def __init__(self, said: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.said = said

    def emit(self, record: logging.LogRecord) -> None:
        """One sentence more."""
        self.said.append(record.getMessage())


@contextmanager
def _overheard(*, elsewhere: bool) -> Iterator[list[str]]:
    """What is warned of meanwhile `elsewhere`: in a process whose log nobody set up, so that it is not said there."""
    said: list[str] = []
    if not elsewhere:
        yield said
        return
    package, listener = logging.getLogger("bayes_influence"), _Listener(said)
    package.addHandler(listener)
    propagate, package.propagate = package.propagate, False
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: said.append(str(message))
            yield said
    finally:
        package.removeHandler(listener)
        package.propagate = propagate


def _store(folder: StudyFolder, key: str, outcome: CellResult | str, failures: dict[str, str]) -> None:
    """Stores a result, or notes a failure; a result that cannot be stored is a failure of its cell."""
    if isinstance(outcome, CellResult):
        try:
            folder.save_cell(key, outcome.tables, outcome.arrays)
            return
        except (TypeError, ValueError):
            outcome = traceback.format_exc()
    failures[key] = outcome
    logger.error("cell %s failed, the others go on:\n%s", key, outcome)


@contextmanager
def _seeded(key: str) -> Iterator[None]:
    """Seeds torch's global generators from the key, and restores them after."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _threads(n_threads: int | None) -> AbstractContextManager[None]:
    """`torch_threads`, or nothing to do for None."""
    return nullcontext() if n_threads is None else torch_threads(n_threads)
