"""Reproduces the fragility study of Epifano et al.: all figures and the ablations, with one summary in sentences.

    python scripts/reproduce_fragility.py --scale quick

Every part is stored cell by cell: a run that was killed continues where it was. The published code's choices, defects
included, are `--mode as-published`.
"""

from pathlib import Path
from typing import Annotated

import typer

from bayes_influence.experiments.papers.registry import reproduce


def main(
    mode: Annotated[str, typer.Option(help="corrected, or as-published.")] = "corrected",
    scale: Annotated[str, typer.Option(help="quick, medium or full.")] = "medium",
    data_folder: Annotated[str | None, typer.Option(help="Where MNIST and CIFAR-10 are kept.")] = None,
    out: Annotated[Path, typer.Option(help="Result folder.")] = Path("runs/fragility"),
    jobs: Annotated[int | None, typer.Option(help="Cells at once; as many as there are cores when not given.")] = None,
) -> None:
    """Runs everything and prints what agrees with the paper and what does not."""
    options = {"mode": mode, "scale": scale, "data_folder": data_folder}
    found = reproduce("all", options, out / mode, n_jobs=jobs)
    for sentence in found.findings:
        print(f"- {sentence}")
    for figure in found.figures:
        print(figure)


if __name__ == "__main__":
    typer.run(main)
