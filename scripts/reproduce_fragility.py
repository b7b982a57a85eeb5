"""Reproduces figures 1 and 3 of Epifano et al. (Iris; depth 1 to 8 and width 5 to 50), in the corrected protocol.

    python scripts/reproduce_fragility.py --repeats 10

Both figures come from the same cells, which are stored one by one: a run that was killed continues where it was.
"""

from pathlib import Path
from typing import Annotated

import typer

from bayes_influence.experiments.comparison.study import Study
from bayes_influence.experiments.papers.fragility_iris import FIGURES, reproduce_figure


def main(
    repeats: Annotated[int, typer.Option(help="Seeds per scheme, 1 to 50.")] = 10,
    epochs: Annotated[int, typer.Option(help="Full-batch steps; the paper has 60000.")] = 4000,
    out: Annotated[Path, typer.Option(help="Result folder.")] = Path("runs/fragility-iris"),
) -> None:
    """Runs the grid and draws both figures."""
    study = Study(repeats=repeats, epochs=epochs)
    for name in FIGURES:
        result, anova = reproduce_figure(name, study, out)
        print(f"{name}: {out / name}.png, {len(result.results)} rows")
        print(anova[["between", "at", "statistic", "p_value"]].to_string(index=False))


if __name__ == "__main__":
    typer.run(main)
