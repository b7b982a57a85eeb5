"""Compares regularisation schemes on Iris in Python: the same job as `bayes-influence compare iris`.

    python scripts/compare_regularizers.py

Every number that is printed is also in `summary.csv`; `figure.png` shows agreement, spectrum and a scatter per scheme.
"""

from pathlib import Path

from rich.console import Console

from bayes_influence.experiments.comparison.regularisers import compare_regularisers
from bayes_influence.experiments.comparison.study import Study
from bayes_influence.experiments.comparison.summary import printed_table


def main() -> None:
    """Runs the default study and prints its table."""
    study = Study(dataset="iris", depth=1, width=5, activation="selu", repeats=10, removals=40)
    result = compare_regularisers(study, Path("runs/compare-iris"))
    Console(width=180).print(printed_table(result.summary, "Iris, influence in the last layer"))

    # Which removals matter most under weight decay, and was the estimate right?
    decayed = result.differences[result.differences["scheme"] == "weight-decay"]
    by_example = decayed.groupby("example")[["estimated", "true"]].mean()
    print(by_example.reindex(by_example["true"].abs().sort_values(ascending=False).index).head(10))

    # What damping does to a network whose loss has no minimum at finite parameters.
    undamped = result.damping[result.damping["scheme"] == "none"]
    print(undamped.groupby("delta")[["spearman", "pearson", "slope"]].mean())


if __name__ == "__main__":
    main()
