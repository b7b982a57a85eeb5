"""Reproduces figures 1 and 3 of Epifano et al. (Iris; depth 1 to 8 and width 5 to 50), in the corrected protocol.

    python scripts/reproduce_fragility.py --repeats 10

Both figures come from the same cells, which are stored one by one: a run that was killed continues where it was.
"""

from pathlib import Path
from typing import Annotated

import typer

from bayes_influence.experiments.papers.registry import reproduce


def main(
    repeats: Annotated[int, typer.Option(help="Seeds per scheme, 1 to 50.")] = 10,
    epochs: Annotated[int, typer.Option(help="Full-batch steps; the paper has 60000.")] = 4000,
    out: Annotated[Path, typer.Option(help="Result folder.")] = Path("runs/fragility-iris"),
) -> None:
    """Runs the grid and draws both figures."""
    for name in ("fig1", "fig3"):
        found = reproduce(name, {"repeats": repeats, "epochs": epochs}, out)
        print(f"{name}: {found.figures[0]}")
        print(found.table.to_string(index=False))


if __name__ == "__main__":
    typer.run(main)
