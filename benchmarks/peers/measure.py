"""Measures libraries side by side: a process for each, one run at a time, in turns."""

from __future__ import annotations

import gc
import math
import multiprocessing
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers.installed import Adapter, adapter
from benchmarks.peers.outcome import Outcome
from benchmarks.peers.problem import Problem


@dataclass(frozen=True, eq=False)
class Run:
    """One run of one library.

    Attributes:
        seconds: Wall time.
        cpu_seconds: Processor time of all threads.
        peak_bytes: Memory beyond what the process held before the run.
        outcome: What it came to, None if it failed.
        error: Why it failed.
        ended: Whether its process is gone.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    outcome: Outcome | None
    error: str = ""
    ended: bool = False


@dataclass(frozen=True, eq=False)
class Measurement:
    """All runs of one library on one problem."""

    name: str
    runs: Sequence[Run]

    @property
    def error(self) -> str:
        """Why the last run failed, empty if it did not."""
        return self.runs[-1].error

    @property
    def outcome(self) -> Outcome:
        """The last run's.

        Raises:
            RuntimeError: If it failed.
        """
        outcome = self.runs[-1].outcome
        if outcome is None:
            raise RuntimeError(f"{self.name} failed: {self.error}")
        return outcome

    @property
    def seconds(self) -> float:
        """Median wall time."""
        return median(run.seconds for run in self.runs)

    @property
    def cpu_seconds(self) -> float:
        """Median processor time."""
        return median(run.cpu_seconds for run in self.runs)

    @property
    def peak_bytes(self) -> int:
        """The largest peak: a process that has run once does not give all memory back."""
        return max(run.peak_bytes for run in self.runs)


def side_by_side(
    entries: dict[str, str], problems: dict[str, Problem], repeats: int, threads: int
) -> list[Measurement]:
    """Runs every library `repeats` times, taking turns, each in a process of its own.

    A process that ends without an answer is a failed run, and has no further ones.

    Args:
        entries: Adapters as "module:function", by the name to report.
        problems: The problem of each.
        repeats: Rounds.
        threads: Of each process.
    """
    context = multiprocessing.get_context("spawn")
    workers: dict[str, Connection] = {}
    processes = []
    for name, entry in entries.items():
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there, entry, problems[name], threads), daemon=True)
        process.start()
        there.close()  # else the end of the process would not be noticed here
        workers[name] = here
        processes.append(process)
    runs: dict[str, list[Run]] = {name: [] for name in entries}
    started = {name: _answer(connection) for name, connection in workers.items()}
    runs |= {name: [answer] for name, answer in started.items() if isinstance(answer, Run)}
    for _ in range(repeats):
        for name, connection in workers.items():
            if runs[name] and runs[name][-1].ended:
                continue
            connection.send("run")
            runs[name].append(_answer(connection))
    for process in processes:
        process.terminate()
        process.join()
    return [Measurement(name, runs[name]) for name in entries]


def _answer(connection: Connection) -> Any:
    """What a process sends: "ready" or a run; a failed run if it ended."""
    try:
        return connection.recv()
    except EOFError:
        error = "its process ended without an answer; what it printed stands above"
        return Run(math.nan, math.nan, 0, None, error, ended=True)


def _serve(connection: Connection, entry: str, problem: Problem, threads: int) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    library = adapter(entry)
    connection.send("ready")
    while connection.recv() == "run":
        connection.send(_timed(library, problem))


def _timed(library: Adapter, problem: Problem) -> Run:
    gc.collect()
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    started, started_cpu = time.perf_counter(), time.process_time()
    outcome: Outcome | None = None
    error = ""
    try:
        outcome = library(problem)
    except Exception as failure:
        error = f"{type(failure).__name__}: {failure}"
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - started_cpu
    peak = _memory("VmHWM") - before
    return Run(seconds, cpu_seconds, peak, None if outcome is None else _detached(outcome), error)


def _detached(outcome: Outcome) -> Outcome:
    def plain(values: Tensor) -> Tensor:
        return values.detach().clone()

    solved = None if outcome.solved is None else plain(outcome.solved)
    return Outcome(plain(outcome.raw), plain(outcome.removal), solved, outcome.notes)


def _memory(field: str) -> int:
    """A line of this process' status, in bytes; Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
