"""A CNN of 20 000 parameters on scikit-learn's digits: last layer or all parameters, by cold and by warm retraining.

python -m benchmarks.parameter_sets [--subsets 12] [--seeds 2] [--epochs 15] [--examples 700]
"""

from __future__ import annotations

import copy
import time

import torch
import typer
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader

import bayes_influence as bi

DECAY = 1e-3


def cnn() -> nn.Module:
    """19 850 parameters, 650 of them in the last layer."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(512, 28), nn.ReLU(), nn.Linear(28, 10)),
    )


def train(network: nn.Module, data: bi.Dataset, seed: int, epochs: int, rate: float) -> nn.Module:
    """Anybody's loop: minibatches of 64, Adam, weight decay, the rate halved towards the end."""
    pairs = list(zip(data.inputs, data.targets, strict=True))
    loader = DataLoader(pairs, 64, shuffle=True, generator=torch.Generator().manual_seed(seed))
    optimiser = torch.optim.Adam(network.parameters(), lr=rate, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    for _ in range(epochs):
        for inputs, targets in loader:
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(inputs), targets).backward()
            optimiser.step()
        schedule.step()
    return network


def main(
    subsets: int = 12, seeds: int = 2, epochs: int = 15, examples: int = 700, tests: int = 20, damping: float = 0.01
) -> None:
    """Prints what `compare_parameters` says."""
    torch.set_num_threads(1)
    inputs, targets = load_digits(return_X_y=True)
    images = torch.tensor(inputs, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    data = bi.Dataset(images, torch.tensor(targets), torch.arange(len(targets)), "digits")
    training, held_out = data.select(range(examples)), data.select(range(examples, len(data)))

    def cold(examples: bi.Dataset, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return train(cnn(), examples, seed, epochs, 3e-3)

    started = time.time()
    fitted = cold(training, 0)
    objective = bi.Objective(fitted, bi.CrossEntropy(), bi.WeightDecay(DECAY))
    with torch.no_grad():
        losses = objective.losses(objective.params, held_out.batch())
        print(f"one training {time.time() - started:.1f} s, test loss {losses.mean():.3f}")
    hardest = held_out.select(losses.argsort(descending=True)[:tests])

    def warm(examples: bi.Dataset, seed: int) -> nn.Module:
        return train(copy.deepcopy(fitted), examples, seed, epochs // 2, 1e-3)

    for name, retrain in (("cold", cold), ("warm", warm)):
        started = time.time()
        found = bi.compare_parameters(
            *(objective, training, hardest, retrain), subsets=subsets, seeds=seeds, curvature="ggn", damping=damping
        )
        print(f"{name}, {time.time() - started:.0f} s: {found.sentence}", flush=True)


if __name__ == "__main__":
    typer.run(main)
