"""Speed, memory and accuracy beside the peer libraries, as tables.

Every library runs in a process of its own, in turns, so that whatever else the machine does disturbs all of them
alike; compare ratios and processor time rather than seconds.

    python -m benchmarks.peers.speed last-layer
    python -m benchmarks.peers.speed all-parameters --examples 60000
    python -m benchmarks.peers.speed indefinite
    python -m benchmarks.peers.speed ekfac
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated

import torch
import typer
from torch import Tensor

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

ALL_PARAMETERS = {OURS: "ours:conjugate_gradients", "pyDVL block CG": "with_pydvl:block_conjugate_gradients"}

EKFAC = {
    f"{OURS}, empirical": "ours:ekfac_empirical",
    "kronfluence, empirical": "with_kronfluence:empirical",
    f"{OURS}, exact": "ours:ekfac_exact",
    f"{OURS}, sampled": "ours:ekfac_sampled",
    "kronfluence, sampled": "with_kronfluence:sampled",
}


@app.command()
def last_layer(
    examples: Examples = 5000, tests: int = 20, repeats: Repeats = 3, threads: Threads = 1, only: Only = None
) -> None:
    """Influence in the last layer at damping .01, in float64, against the closed form."""
    problem = mnist_problem(examples, tests, 0.01, parameters="last-layer", dtype=torch.float64, residual=1e-8)
    reference = last_layer_removal(problem)
    chosen = _chosen(LAST_LAYER, only)
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
    problem = mnist_problem(examples, tests, damping, residual=residual, epochs=epochs)
    gauss_newton = replace(problem, curvature="ggn")
    entries = {**ALL_PARAMETERS, f"{OURS}, GGN": ALL_PARAMETERS[OURS]}
    problems = {name: gauss_newton if name.endswith("GGN") else problem for name in entries}
    chosen = _chosen(entries, only)
    measurements = side_by_side(chosen, problems, repeats, threads)
    _report(measurements, "median relative residual", lambda found: _residual(found, problems[found.name]))


@app.command()
def indefinite(examples: Examples = 2000, tests: int = 5, epochs: Epochs = 30, threads: Threads = 1) -> None:
    """The same at damping .01, where the damped Hessian is indefinite: who notices, and what comes out."""
    problem = mnist_problem(examples, tests, 0.01, epochs=epochs)
    entries = {**ALL_PARAMETERS, f"{OURS}, GGN": ALL_PARAMETERS[OURS]}
    problems = {name: replace(problem, curvature="ggn") if name.endswith("GGN") else problem for name in entries}
    measurements = side_by_side(entries, problems, 1, threads)
    _report(measurements, "median relative residual", lambda found: _residual(found, problems[found.name]))
    told = measurements[-1]
    for found in measurements:
        likeness = "" if found.error else f", correlation with {told.name}: {_correlation(found, told):.2f}"
        print(f"{found.name}: {found.error or 'no error'}{likeness}")


@app.command()
def ekfac(examples: Examples = 6000, tests: int = 20, repeats: Repeats = 3, threads: Threads = 1) -> None:
    """EK-FAC of all parameters at damping .01: distance to kronfluence where it is deterministic, and time."""
    problem = mnist_problem(examples, tests, 0.01)
    measurements = side_by_side(EKFAC, dict.fromkeys(EKFAC, problem), repeats, threads)
    theirs = next(found for found in measurements if found.name == "kronfluence, empirical")
    _report(measurements, "distance to kronfluence, empirical", lambda found: _distance(found, theirs.outcome.removal))


def _chosen(entries: dict[str, str], only: Sequence[str] | None) -> dict[str, str]:
    unknown = sorted(set(only or ()) - set(entries))
    if unknown:
        raise typer.BadParameter(f"unknown {unknown}; known: {', '.join(entries)}")
    return {name: entry for name, entry in entries.items() if not only or name in only}


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
            ", ".join(f"{name} {value:.3g}" for name, value in notes.items()),
        )
        print(f"| {' | '.join(cells)} |", flush=True)


def _distance(measurement: Measurement, reference: Tensor) -> float:
    removal = measurement.outcome.removal.double()
    return float((removal - reference).norm() / reference.norm())


def _residual(measurement: Measurement, problem: Problem) -> float:
    solved = measurement.outcome.solved
    return float("nan") if solved is None else float(relative_residuals(problem, solved).median())


def _correlation(measurement: Measurement, other: Measurement) -> float:
    pair = torch.stack([found.outcome.removal.double().flatten() for found in (measurement, other)])
    return float(torch.corrcoef(pair)[0, 1])


if __name__ == "__main__":
    app()
