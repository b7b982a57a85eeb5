"""Speed, memory and accuracy beside the peer libraries, as tables.

Every library runs in a process of its own, in turns, so that whatever else the machine does disturbs all of them
alike; compare ratios and processor time rather than seconds.

    python -m benchmarks.peers.speed last-layer
    python -m benchmarks.peers.speed all-parameters --examples 60000
    python -m benchmarks.peers.speed indefinite
    python -m benchmarks.peers.speed ekfac
    python -m benchmarks.peers.speed gpt --examples 2000 --repeats 1
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated

import torch
import typer
from torch import Tensor

from benchmarks.peers.gpt import gpt_problem
from benchmarks.peers.installed import present
from benchmarks.peers.measure import Measurement, side_by_side
from benchmarks.peers.problem import Problem, mnist_problem
from benchmarks.peers.reference import last_layer_removal, relative_residuals

app = typer.Typer(add_completion=False, help=__doc__)

Examples = Annotated[int, typer.Option(help="Training examples n.")]
Repeats = Annotated[int, typer.Option(help="Rounds; medians are reported.")]
Threads = Annotated[int, typer.Option(help="Threads of each library.")]
Epochs = Annotated[int, typer.Option(help="Epochs of training: the longer, the less negative curvature is left.")]
Only = Annotated[list[str] | None, typer.Option(help="Run these libraries alone.")]

OURS = "bayes-influence"

LAST_LAYER = {
    OURS: "ours:automatic",
    "pyDVL block CG": "with_pydvl:block_conjugate_gradients",
    "pyDVL direct": "with_pydvl:direct",
    "captum naive": "with_captum:full_rank",
    "dattri explicit": "with_dattri:explicit",
    "torch-influence CG": "with_torch_influence:conjugate_gradients",
}

WITH_GAUSS_NEWTON = {
    OURS: "ours:conjugate_gradients",
    "pyDVL block CG": "with_pydvl:block_conjugate_gradients",
    f"{OURS}, GGN": "ours:conjugate_gradients",
}

REFERENCE = "kronfluence, empirical"

EKFAC = {
    f"{OURS}, empirical": "ours:ekfac_empirical",
    REFERENCE: "with_kronfluence:empirical",
    f"{OURS}, exact": "ours:ekfac_exact",
    f"{OURS}, sampled": "ours:ekfac_sampled",
    "kronfluence, sampled": "with_kronfluence:sampled",
}


@app.command()
def last_layer(
    examples: Examples = 5000, tests: int = 20, repeats: Repeats = 3, threads: Threads = 1, only: Only = None
) -> None:
    """Influence in the last layer at damping .01, in float64, against the closed form."""
    chosen = _chosen(LAST_LAYER, only)
    problem = mnist_problem(examples, tests, 0.01, parameters="last-layer", dtype=torch.float64, residual=1e-8)
    reference = last_layer_removal(problem)
    measurements = side_by_side(chosen, dict.fromkeys(chosen, problem), repeats, threads)
    _report(measurements, "relative error", lambda measurement: _distance(measurement, reference))


@app.command()
def all_parameters(
    examples: Examples = 6000,
    tests: int = 20,
    damping: float = 0.1,
    residual: Annotated[float, typer.Option(help="Relative residual asked of pyDVL; ours must match it.")] = 1e-4,
    repeats: Repeats = 1,
    threads: Threads = 1,
    epochs: Epochs = 30,
    only: Only = None,
) -> None:
    """Influence in all 50 890 parameters, in float32, by the Hessian and the Gauss-Newton matrix.

    pyDVL has no Gauss-Newton matrix; its time with the Hessian stands beside ours with either. Residuals are those of
    the float64 system: the median, as float32 cannot hold the gradient of a loss of 1e-5 to better than a few 1e-3.
    """
    chosen = _chosen(WITH_GAUSS_NEWTON, only)
    problem = mnist_problem(examples, tests, damping, residual=residual, epochs=epochs)
    problems = _with_gauss_newton(problem, chosen)
    measurements = side_by_side(chosen, problems, repeats, threads)
    _report(measurements, "median relative residual", lambda found: _residual(found, problems[found.name]))


@app.command()
def indefinite(examples: Examples = 2000, tests: int = 5, epochs: Epochs = 30, threads: Threads = 1) -> None:
    """The same at damping .01, where the damped Hessian is indefinite: who notices, and what comes out."""
    chosen = _chosen(WITH_GAUSS_NEWTON, None)
    problem = mnist_problem(examples, tests, 0.01, epochs=epochs)
    problems = _with_gauss_newton(problem, chosen)
    measurements = side_by_side(chosen, problems, 1, threads)
    _report(measurements, "median relative residual", lambda found: _residual(found, problems[found.name]))
    told = measurements[-1]
    for found in measurements:
        likeness = (
            "" if found.error or told.error else f", correlation with {told.name}: {_correlation(found, told):.2f}"
        )
        print(f"{found.name}: {found.error or 'no error'}{likeness}")


@app.command()
def ekfac(examples: Examples = 6000, tests: int = 20, repeats: Repeats = 3, threads: Threads = 1) -> None:
    """EK-FAC of all parameters at damping .01: distance to kronfluence where it is deterministic, and time."""
    chosen = _chosen(EKFAC, None)
    problem = mnist_problem(examples, tests, 0.01)
    measurements = side_by_side(chosen, dict.fromkeys(chosen, problem), repeats, threads)
    _report(measurements, f"distance to {REFERENCE}", lambda found: _to_reference(found, measurements))


@app.command()
def gpt(
    examples: Examples = 200,
    tests: int = 20,
    repeats: Repeats = 3,
    threads: Threads = 1,
    batch: Annotated[int, typer.Option(help="Sequences at a time, of each library.")] = 50,
    length: Annotated[int, typer.Option(help="Tokens of a sequence.")] = 64,
) -> None:
    """EK-FAC of a GPT's linear layers at the observed targets, 6 layers of width 128, in float64: distance and time."""
    chosen = present({name: EKFAC[name] for name in (f"{OURS}, empirical", REFERENCE)})
    problem = gpt_problem(examples, tests, batch_size=batch, length=length)
    measurements = side_by_side(chosen, dict.fromkeys(chosen, problem), repeats, threads)
    _report(measurements, f"distance to {REFERENCE}", lambda found: _to_reference(found, measurements))


def _to_reference(found: Measurement, measurements: Sequence[Measurement]) -> float:
    theirs = next((each for each in measurements if each.name == REFERENCE and not each.error), None)
    return math.nan if theirs is None else _distance(found, theirs.outcome.removal)


def _chosen(entries: dict[str, str], only: Sequence[str] | None) -> dict[str, str]:
    unknown = sorted(set(only or ()) - set(entries))
    if unknown:
        raise typer.BadParameter(f"unknown {unknown}; known: {', '.join(entries)}")
    return present({name: entry for name, entry in entries.items() if not only or name in only})


def _with_gauss_newton(problem: Problem, entries: dict[str, str]) -> dict[str, Problem]:
    """The problem of each, with the Gauss-Newton matrix for those that are named after it."""
    gauss_newton = replace(problem, curvature="ggn")
    return {name: gauss_newton if name.endswith("GGN") else problem for name in entries}


def _report(measurements: Sequence[Measurement], quality: str, judge: Callable[[Measurement], float]) -> None:
    ours = measurements[0]
    columns = ("library", "wall s", "CPU s", "peak MB", quality, "wall / ours", "CPU / ours", "notes")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for found in measurements:
        notes = {} if found.error else found.outcome.notes
        cells = (
            found.name,
            f"{found.seconds:.2f}",
            f"{found.cpu_seconds:.2f}",
            f"{found.peak_bytes / 2**20:.0f}",
            "failed" if found.error else f"{judge(found):.2e}",
            f"{found.seconds / ours.seconds:.1f}",
            f"{found.cpu_seconds / ours.cpu_seconds:.1f}",
            found.error or ", ".join(f"{name} {value:.3g}" for name, value in notes.items()),
        )
        print(f"| {' | '.join(cells)} |", flush=True)


def _distance(measurement: Measurement, reference: Tensor) -> float:
    removal = measurement.outcome.removal.double()
    return float((removal - reference).norm() / reference.norm())


def _residual(measurement: Measurement, problem: Problem) -> float:
    solved = measurement.outcome.solved
    return math.nan if solved is None else float(relative_residuals(problem, solved).median())


def _correlation(measurement: Measurement, other: Measurement) -> float:
    pair = torch.stack([found.outcome.removal.double().flatten() for found in (measurement, other)])
    return float(torch.corrcoef(pair)[0, 1])


if __name__ == "__main__":
    app()
