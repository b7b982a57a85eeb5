"""Whether predicted changes of uncertainty are those of retraining: epistemic and aleatoric, of Bayesian last layers.

A network is trained as `bayes-influence train` does, its last layer brought to its minimum, and retrained without each
of some training examples: those of largest predicted effect on the uncertainties, and random ones. Pearson's
correlation is over all pairs of removed example and test example.

    python -m benchmarks.uncertainty iris digits
    python -m benchmarks.uncertainty mnist --examples 1000 --epochs 40
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import pandas as pd
import torch
import typer

from bayes_influence.evaluation.agreement import agreement
from bayes_influence.experiments.attribution.of_run import InfluenceRequest
from bayes_influence.experiments.attribution.why.asked import DAMPING, asked_of_run
from bayes_influence.experiments.attribution.why.of_classes import uncertainties, uncertainty_effects
from bayes_influence.experiments.training.run import load_run, run_training
from bayes_influence.experiments.training.settings import TrainRun
from bayes_influence.objectives.reweighting import Removals


def measure(run: TrainRun, removals: int, tests: int, data_folder: Path | None) -> pd.DataFrame:
    """One row per kind of uncertainty."""
    with TemporaryDirectory() as folder:
        run_training(run, Path(folder) / "run", data_folder=data_folder, progress=False)
        objective, split, _ = load_run(Path(folder) / "run", data_folder=data_folder)
    request = InfluenceRequest((0,), damping=DAMPING)
    asked = asked_of_run(objective, split.train, split.test.select(range(tests)), request)
    effects = uncertainty_effects(request.influence(asked.objective, asked.train, progress=False), asked)
    strongest = torch.stack([effect.abs().sum(dim=0) for effect in effects.values()]).sum(dim=0)
    random = torch.randperm(len(asked.train), generator=torch.Generator().manual_seed(0))
    both = torch.cat([strongest.argsort(descending=True)[: removals // 2], random[: removals // 2]]).unique()
    groups = Removals.of_groups([asked.train.ids[[place]] for place in both.tolist()], 1)
    refits = asked.protocol.refit(asked.network, asked.train, groups)
    control, *after = (uncertainties(refits.at(0, index), asked.tests) for index in range(len(both) + 1))
    rows = []
    for name, effect in effects.items():
        true = torch.stack([one[name] - control[name] for one in after]).reshape(-1).numpy()
        found = agreement(effect[:, both].T.reshape(-1).numpy(), true)
        rows.append({"data": run.dataset, "uncertainty": name, "pearson": found.pearson, "slope": found.slope})
    return pd.DataFrame(rows)


def main(
    datasets: Annotated[list[str], typer.Argument(help="By name.")],
    epochs: Annotated[int | None, typer.Option(help="The data set's own when not given.")] = None,
    width: Annotated[int, typer.Option(help="Hidden units.")] = 8,
    removals: Annotated[int, typer.Option(help="Examples removed one at a time.")] = 20,
    tests: Annotated[int, typer.Option(help="Test examples.")] = 10,
    examples: Annotated[int | None, typer.Option(help="Training examples, the first ones; all when not given.")] = None,
    seeds: Annotated[str, typer.Option(help="Of the network, separated by commas.")] = "0",
    data_folder: Annotated[Path | None, typer.Option(help="Where image sets are.")] = None,
) -> None:
    """Prints correlation and slope of true on predicted changes."""
    torch.set_num_threads(1)
    for dataset, seed in product(datasets, map(int, seeds.split(","))):
        run = TrainRun(
            dataset,
            "mlp",
            "bnn",
            (seed,),
            width=width,
            activation="selu",
            epochs=epochs,
            scheme_options={"prior": "fan-in"},
            train_examples=examples,
        )
        found = measure(run, removals, tests, data_folder)
        print(found.assign(seed=seed).round(3).to_string(index=False), flush=True)


if __name__ == "__main__":
    typer.run(main)
