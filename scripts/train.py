"""Train the same network deterministic and Bayesian, from several seeds, and compare their predictions.

    python scripts/train.py                                   # an MLP on scikit-learn's digits, about a minute
    python scripts/train.py --dataset mnist --network lenet --activation relu --seeds 0,1,2 --epochs 15

Each scheme has its own folder with configuration, checkpoint, report and reliability plot; beside them stand the table
over the seeds and one reliability plot of all schemes. Stop the script whenever you like: the same command continues
where it was. Images are looked for in `--data-folder`, in the folder that the environment variable
BAYES_INFLUENCE_DATA names, and are downloaded otherwise.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bayes_influence.experiments.training.settings import TrainRun
from bayes_influence.experiments.training.side_by_side import train_schemes


def main() -> None:
    """Trains every scheme and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--network", default="mlp")
    parser.add_argument("--schemes", default="none,bnn-tempered,bnn")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--activation")
    parser.add_argument("--method", help="how moments of Bayesian networks pass activations")
    parser.add_argument("--structure", help="what of the covariance between activations they take in")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data-folder", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()

    moments = {"method": options.method, "structure": options.structure}
    run = TrainRun(
        dataset=options.dataset,
        network=options.network,
        seeds=tuple(int(seed) for seed in options.seeds.split(",")),
        epochs=options.epochs,
        activation=options.activation,
        device=options.device,
        scheme_options={name: word for name, word in moments.items() if word is not None},
    )
    out = options.out or Path("runs") / f"train-{options.dataset}-{options.network}"
    summary = train_schemes(run, options.schemes.split(","), out, data_folder=options.data_folder)
    print(summary.to_string())
    print(f"Tables and plots: {out}")


if __name__ == "__main__":
    main()
