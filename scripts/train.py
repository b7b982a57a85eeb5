"""Train a deterministic and a Bayesian network on handwritten digits, and compare their predictions.

    python scripts/train.py                                   # scikit-learn's digits, a minute
    python scripts/train.py --dataset mnist --network lenet --epochs 10 --seeds 0,1,2

Each scheme has its own folder with configuration, checkpoint, report and reliability plot. Stop the script whenever
you like: the same command continues where it was. Images are looked for in `--data-folder`, in the folder that the
environment variable BAYES_INFLUENCE_DATA names, and are downloaded otherwise.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from bayes_influence.experiments.train_report import train_and_report
from bayes_influence.experiments.train_settings import TrainRun


def main() -> None:
    """Trains every scheme and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--network", default="mlp")
    parser.add_argument("--schemes", default="none,bnn")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--prior", default="fan-in")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data-folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/train"))
    options = parser.parse_args()

    reports = []
    for scheme in options.schemes.split(","):
        run = TrainRun(
            dataset=options.dataset,
            network=options.network,
            scheme=scheme,
            seeds=tuple(int(seed) for seed in options.seeds.split(",")),
            epochs=options.epochs,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            prior=options.prior,
            device=options.device,
        )
        folder = options.out / f"{options.dataset}-{options.network}-{scheme}"
        report = train_and_report(run, folder, data_folder=options.data_folder)
        report.insert(0, "scheme", scheme)
        reports.append(report)
    print(pd.concat(reports).dropna(axis="columns", how="all").to_string(index=False, float_format="{:.4f}".format))


if __name__ == "__main__":
    main()
