"""How what linearising the proximal Bregman response neglects vanishes as the damping grows, on L2 softmax regression.

Iris, weight decay .005, the ten examples of largest loss removed one at a time. The response is of order 1/delta, and
its linearisation, damped influence, neglects terms of order 1/delta^2: relative to the response 1/delta, slope 1.

    python -m benchmarks.pbrf_damping
"""

from __future__ import annotations

import numpy as np
import torch
import typer

from bayes_influence.data.standardisation import standardise
from bayes_influence.data.tables import load_table
from bayes_influence.models.mlp import MLP
from bayes_influence.objectives.parameters import Params
from bayes_influence.objectives.reweighting import largest_losses
from bayes_influence.retraining.linear_response import LinearResponse
from bayes_influence.retraining.proximal import ProximalBregman
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.schemes import SCHEMES

DELTAS = np.array([1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0])
ASYMPTOTIC = 1.0
"""Damping from which the slope is fitted: above every eigenvalue of the Hessian."""


def main() -> None:
    """Prints the table and the slope."""
    (train,) = standardise(load_table("iris"))
    schedule = Schedule(500, 0.02)
    (fits,) = fit_schemes([SCHEMES["weight-decay"]], lambda: MLP(4, 3, depth=0), train, [0], schedule)
    removed = largest_losses(fits.at(0), train, 10).unsqueeze(0)
    relative = []
    print("| δ | size of the response | what linearising neglects | relative |\n|---|---|---|---|")
    for delta in DELTAS:
        pbrf = _steps(ProximalBregman(float(delta), tolerance=1e-13).refit(fits, train, removed).params)
        linear = _steps(LinearResponse(float(delta)).refit(fits, train, removed).params)
        size, neglected = float(pbrf.norm()), float((linear - pbrf).norm())
        relative.append(neglected / size)
        print(f"| {delta:g} | {size:.2e} | {neglected:.2e} | {relative[-1]:.1e} |")
    large = DELTAS >= ASYMPTOTIC
    slope = np.polyfit(np.log(1 / DELTAS[large]), np.log(np.array(relative)[large]), 1)[0]
    print(f"slope of log(relative) against log(1/δ) from δ = {ASYMPTOTIC:g} on: {slope:.2f}")


def _steps(params: Params) -> torch.Tensor:
    """What every removal does to the parameters, counted from the control."""
    return torch.cat([(value[0, 1:] - value[0, :1]).flatten(1) for value in params.values()], dim=1)


if __name__ == "__main__":
    typer.run(main)
