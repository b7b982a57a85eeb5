"""Last-layer influence of every training image of a run on 1 000 test losses: seconds, memory, and what they must be.

Floors, measured in the same run: one forward pass of all training images; the Gram matrices of the closed-form
Hessian, n D^2 C (C + 1) / 2 multiplications and as many additions for D features (bias included) and C classes; for the
scores one matrix product (n, P) by (P, t). The last two are a small product of the same dtype, timed and scaled up.

    bayes-influence train mnist --network lenet --scheme weight-decay --epochs 4 --out RUN
    python -m benchmarks.lenet_last_layer RUN
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import pandas as pd
import torch
import typer

from bayes_influence.experiments.training.run import load_run
from bayes_influence.influence.influence import Influence
from bayes_influence.objectives.objective import Objective

Result = TypeVar("Result")


def timed(work: Callable[[], Result]) -> tuple[Result, float, float]:
    """What the work returns, its wall time, and the processor time of all threads, in seconds."""
    began, used = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - began, time.process_time() - used


def peak_bytes() -> int:
    """The most memory that the process has held."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def forward(objective: Objective, data: object, size: int = 1024) -> None:
    """One forward pass, nothing kept."""
    with torch.no_grad():
        for batch in data.batches(size):  # type: ignore[attr-defined]
            objective.outputs(objective.params, batch.inputs)


def product_seconds(operations: float, dtype: torch.dtype, side: int = 1024) -> float:
    """How long so many multiplications and additions take in a square matrix product."""
    left, right = torch.randn(2, side, side, dtype=dtype)
    left @ right
    _, seconds, _ = timed(lambda: [left @ right for _ in range(4)])
    return operations * seconds / (4 * 2 * side**3)


def main(
    run: Annotated[Path, typer.Argument(help="Folder of a finished training run.")],
    tests: Annotated[int, typer.Option(help="Test examples.")] = 1000,
    threads: Annotated[int, typer.Option(help="Of torch.")] = 2,
    data_folder: Annotated[Path | None, typer.Option(help="Where image sets are kept.")] = None,
) -> None:
    """Prints a row per stage."""
    torch.set_num_threads(threads)
    objective, split, _ = load_run(run, data_folder=data_folder)
    train, test = split.train, split.test.select(range(tests))
    held = peak_bytes()
    influence, build, build_cpu = timed(lambda: Influence(objective, train, parameters="last-layer"))
    scores, score, score_cpu = timed(lambda: influence.on_loss(test))
    peak = peak_bytes()
    _, once, _ = timed(lambda: forward(objective, train))
    n, width, classes = len(train), influence.problem.data.inputs.shape[1] + 1, train.n_classes
    dtype = influence.problem.dtype
    grams = product_seconds(n * width**2 * classes * (classes + 1), dtype)
    pairs = product_seconds(2 * n * influence.problem.size * tests, dtype)
    rows = [
        {"stage": "features, Hessian, factor", "wall s": build, "CPU s": build_cpu, "floor s": once + grams},
        {"stage": f"scores, {len(scores.test_ids)} x {n}", "wall s": score, "CPU s": score_cpu, "floor s": pairs},
    ]
    whole = {"stage": "all", **{name: sum(row[name] for row in rows) for name in ("wall s", "CPU s", "floor s")}}
    frame = pd.DataFrame([*rows, whole])
    frame["wall / floor"] = frame["wall s"] / frame["floor s"]
    print(frame.to_string(index=False, float_format="{:.2f}".format))
    print(f"peak {peak / 1e9:.2f} GB, of which {held / 1e9:.2f} GB were held with the data loaded; {threads} threads")


if __name__ == "__main__":
    typer.run(main)
