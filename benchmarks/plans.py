"""What work is planned to hold and to take, next to what comes: every job in a process of its own.

Bytes are the most that are resident, above those from before the job and after a small one of its kind. Seconds are of
one core's work, so that others on the machine do not count. A plan should be within a factor of 1.5. Where what the
small job freed was enough, nothing more is resident and bytes have no ratio.

    python -m benchmarks.plans
    python -m benchmarks.plans --only "refits"
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from torch import nn

from bayes_influence.curvature.cost import Plan
from bayes_influence.curvature.operators.ekfac import EKFACOperator
from bayes_influence.curvature.solvers.conjugate_gradients import ConjugateGradients
from bayes_influence.data.dataset import Dataset
from bayes_influence.influence.influence import Influence
from bayes_influence.models import MLP, LeNet
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay
from bayes_influence.retraining.minimum import Minimum
from bayes_influence.retraining.proximal import Proximal
from bayes_influence.retraining.warm import Warm
from bayes_influence.training.schedules import Schedule

Job = Callable[[int], Callable[[], Any]]


def problem(network: nn.Module, shape: tuple[int, ...], examples: int, classes: int) -> tuple[Objective, Dataset]:
    """Cross-entropy with weight decay, and examples drawn at random."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(examples, *shape, generator=generator).double()
    targets = torch.randint(classes, (examples,), generator=generator)
    data = Dataset(inputs, targets, torch.arange(examples), name="drawn")
    return Objective(network.double(), CrossEntropy(), WeightDecay(0.01)), data


def last_layer(size: int) -> Callable[[], Any]:
    """The closed form of 1000 classes, factored; P = 1000 (size + 1)."""
    objective, data = problem(nn.Linear(size, 1000), (size,), 400, 1000)
    return lambda: Influence(objective, data, damping=0.1, solver="cholesky")


def dense(size: int) -> Callable[[], Any]:
    """The Hessian of all of an MLP of `size` parameters, about, factored."""
    objective, data = problem(MLP(20, 10, width=max(1, size // 31)), (20,), 500, 10)
    return lambda: Influence(objective, data, damping=10.0, solver="cholesky", parameters="all")


def conjugate_gradients(size: int) -> Callable[[], Any]:
    """Ten test examples in all parameters of 784-128-10, `size` training examples."""
    objective, data = problem(MLP(784, 10, width=128), (784,), size, 10)
    solver = ConjugateGradients(tolerance=1e-4)
    influence = Influence(objective, data, damping=0.01, curvature="ggn", solver=solver, parameters="all")
    columns = influence.problem.gradients(data.select(range(10))).T
    return lambda: influence.response.solve(columns)


def ekfac(size: int) -> Callable[[], Any]:
    """EK-FAC of a LeNet on `size` examples."""
    objective, data = problem(LeNet(10, (1, 28, 28)), (1, 28, 28), size, 10)
    return lambda: EKFACOperator(objective, data)


def scores(size: int) -> Callable[[], Any]:
    """Scores of `size` x 100 pairs in a last layer of 128 features."""
    objective, data = problem(nn.Linear(128, 10), (128,), size, 10)
    influence, test = Influence(objective, data, damping=0.1, curvature="ekfac"), data.select(range(100))
    return lambda: influence.on_loss(test)


def refits(protocol: Any, make: Callable[[int], tuple[Objective, Dataset]]) -> Job:
    """Twenty removals."""

    def job(size: int) -> Callable[[], Any]:
        objective, data = make(size)
        return lambda: protocol.refit(objective, data, torch.arange(20))

    return job


def head(size: int) -> tuple[Objective, Dataset]:
    """A last layer of ten classes and `size` features."""
    return problem(nn.Linear(size, 10), (size,), 500, 10)


def whole(size: int) -> tuple[Objective, Dataset]:
    """All of an MLP of `size` parameters, about, of tanh units: L-BFGS ends at minima of smooth networks."""
    return problem(MLP(10, 5, width=max(1, size // 16), activation="tanh"), (10,), 200, 5)


JOBS: dict[str, tuple[Job, tuple[int, ...]]] = {
    "last layer of 1000 classes": (last_layer, (4, 6)),
    "dense Hessian": (dense, (500, 1000, 2000)),
    "conjugate gradients": (conjugate_gradients, (500, 1000, 2000)),
    "EK-FAC of LeNet": (ekfac, (200, 500, 1000)),
    "scores x 100": (scores, (1250, 2500, 5000)),
    "refits: minimum, last layer": (refits(Minimum(), head), (20, 50, 100)),
    "refits: proximal, all": (refits(Proximal(1.0), whole), (100, 200, 400)),
    "refits: warm, last layer": (refits(Warm(Schedule(400)), head), (20, 50, 100)),
    "refits: warm, all": (refits(Warm(Schedule(400)), whole), (100, 200, 400)),
    "refits: L-BFGS": (refits(Proximal(1.0), whole), (2500, 4000)),
}
"""By name: what makes a job of a size, and the sizes."""


class Watch:
    """Notes the largest plan, and what the longest planned work was said to take and took, while it is on."""

    def __init__(self) -> None:
        self.held, self.taken = 0, 0.0
        self.said: float | None = None
        self.last: float | None = None
        check, timed, announce = Plan.check, Plan.timed, Plan.announce
        by_plan: dict[int, float] = {}
        watch = self

        def noted_check(plan: Plan, device: torch.device) -> None:
            watch.held = max(watch.held, plan.held_bytes)
            check(plan, device)

        def noted_timed(plan: Plan, parts: Iterable[Any], total: int) -> Iterator[Any]:
            watch.held = max(watch.held, plan.held_bytes)
            by_plan.pop(id(plan), None)
            began = time.perf_counter()
            yield from timed(plan, parts, total)
            taken = time.perf_counter() - began
            if taken > watch.taken:
                watch.taken, watch.said = taken, by_plan.get(id(plan))

        def noted_announce(plan: Plan, seconds: float) -> None:
            watch.held = max(watch.held, plan.held_bytes)
            by_plan[id(plan)] = watch.last = seconds
            announce(plan, seconds)

        Plan.check, Plan.timed, Plan.announce = noted_check, noted_timed, noted_announce  # type: ignore[method-assign]


def resident(name: str) -> int:
    """VmRSS or VmHWM, what is resident now and at most."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def measure(name: str, size: int) -> dict[str, Any]:
    """One job in this process: what was planned, and what came."""
    torch.set_num_threads(1)
    time.perf_counter = time.process_time
    make, sizes = JOBS[name]
    make(max(1, min(sizes) // 4))()
    job = make(size)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before, watch, began = resident("VmRSS"), Watch(), time.perf_counter()
    kept = job()
    seconds, peak = time.perf_counter() - began, resident("VmHWM") - before
    if not watch.taken and watch.last is not None:
        watch.taken, watch.said = seconds, watch.last
    del kept
    return {
        "job": name,
        "size": size,
        "plan MB": watch.held / 1e6,
        "held MB": peak / 1e6,
        "bytes": watch.held / peak if peak else None,
        "plan s": watch.said,
        "taken s": watch.taken,
        "seconds": None if watch.said is None else watch.said / watch.taken,
        "whole s": seconds,
    }


def main(
    only: Annotated[str, typer.Option(help="Jobs whose name has this in it.")] = "",
    one: Annotated[str | None, typer.Option(hidden=True)] = None,
    size: Annotated[int, typer.Option(hidden=True)] = 0,
) -> None:
    """Prints a row per job and size, with plan / measured for bytes and seconds."""
    if one is not None:
        print(json.dumps(measure(one, size)))
        return
    rows = []
    for name, (_, sizes) in JOBS.items():
        for each in sizes if only in name else ():
            command = [sys.executable, "-m", "benchmarks.plans", "--one", name, "--size", str(each)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(pd.DataFrame(rows[-1:]).round(3).to_string(index=False, header=len(rows) == 1), flush=True)


if __name__ == "__main__":
    typer.run(main)
