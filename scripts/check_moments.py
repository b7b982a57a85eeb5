"""How far propagated moments agree with sampled weights on trained networks: a row per run and method, and plots.

    bayes-influence train digits --activation tanh --prior fan-in --out runs/digits-tanh
    python scripts/check_moments.py runs/digits-tanh

For every run of a Bayesian network and each way past the activations: the error of the logits' mean in standard
deviations, and the ratio of their variance to that of sampled weights, layer by layer (diagonal) and by one global
linearisation. The plots show `moment_check` layer by layer.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from bayes_influence.experiments.training.run import load_run
from bayes_influence.moments import linearized_moments, moment_check, sampled_moments, to_bayesian, to_deterministic


def main() -> None:
    """Prints the table and writes a plot per run and method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished runs")
    parser.add_argument("--examples", type=int, default=32, help="test examples that are looked at")
    parser.add_argument("--samples", type=int, default=1000, help="draws of the weights")
    parser.add_argument("--data-folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/moments"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    rows = []
    for folder in options.runs:
        objective, split, config = load_run(folder, data_folder=options.data_folder)
        inputs, params = split.test.inputs[: options.examples], objective.params
        sampled = sampled_moments(objective.network, inputs, params, options.samples)
        linearised = linearized_moments(objective.network, inputs, params)
        for method in ("first-order", "exact"):
            twin = to_bayesian(to_deterministic(objective.network), method=method).eval()
            check = moment_check(twin, inputs, params=params, n_samples=options.samples, progress=True)
            check.plot().savefig(options.out / f"{folder.name}-{method}.png", dpi=120)
            output = check.layers[-1]
            rows.append(
                {
                    "run": folder.name,
                    "trained with": config["method"],
                    "method": method,
                    "mean error": output.mean_error,
                    "diagonal / sampled": output.variance_ratio,
                    "linearised / sampled": float(linearised.variance.sum() / sampled.variance.sum()),
                    "logit sd": float(sampled.variance.mean().sqrt()),
                }
            )
    table = pd.DataFrame(rows)
    table.to_csv(options.out / "moments.csv", index=False)
    print(table.to_string(index=False, float_format="{:.3f}".format))


if __name__ == "__main__":
    main()
