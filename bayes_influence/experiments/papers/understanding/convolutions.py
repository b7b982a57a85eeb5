"""A tanh network of two convolutions, and what becomes of a test loss when an image leaves its training."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bayes_influence.data.dataset import Dataset
from bayes_influence.models.initialisation import seeded
from bayes_influence.objectives.objective import Objective
from bayes_influence.retraining.protocol import RetrainingProtocol
from bayes_influence.retraining.refits import loss_changes
from bayes_influence.training.minibatch import train_minibatches
from bayes_influence.training.minibatch_schedule import MinibatchSchedule
from bayes_influence.training.optimisers import SGD
from bayes_influence.training.schedules import SWA

POSITIONS = 4
"""Places a side that the first convolution looks at."""

REFIT_RATE, REFIT_BATCH, MOMENTUM = 0.05, 100, 0.9
"""Of the training that goes on. T steps of it forget nothing that is curved by less than (1 - .9) / (.05 T)."""

AVERAGED = SWA(start=0.5, learning_rate=REFIT_RATE)
"""Of the training that goes on from an average: the rate is kept."""


def check_side(side: int) -> None:
    """Refuses images that are too small for two convolutions.

    Raises:
        ValueError: Naming the smallest side, and theirs.
    """
    if side < POSITIONS:
        raise ValueError(f"side must be at least {POSITIONS} for two convolutions, got {side}; take 7 or 14")


def tanh_convolutions(side: int, width: int, classes: int, seed: int | None = None) -> nn.Sequential:
    """Two convolutions, to 4 x 4 and then to 2 x 2 places, tanh behind each, and a linear layer.

    Args:
        side: Pixels a side, at least 4.
        width: Channels of the first convolution; the second has twice as many.
        classes: Outputs.
        seed: As in `MLP`.
    """
    stride = side // POSITIONS
    with seeded(seed):
        return nn.Sequential(
            nn.Conv2d(1, width, side - (POSITIONS - 1) * stride, stride=stride),
            nn.Tanh(),
            nn.Conv2d(width, 2 * width, POSITIONS // 2, stride=POSITIONS // 2),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(2 * width * (POSITIONS // 2) ** 2, classes),
        )


def continued(
    objective: Objective,
    train: Dataset,
    test: Dataset,
    ids: Int[Tensor, " k"],
    *,
    epochs: int,
    order: int,
    averaging: SWA | None = None,
) -> tuple[Float[Tensor, " k"], float]:
    """The change of the test loss when training goes on without an image, less that of the control; and the latter.

    Momentum SGD from where the network stands; every refit and the control take their minibatches in one order.

    Args:
        objective: The trained network.
        train: Training images.
        test: The test image.
        ids: Of the images, each removed alone.
        epochs: Passes.
        order: Seed of the order of the images.
        averaging: Of the iterates, for a network that is an average itself.
    """
    weights = torch.ones(len(ids) + 1, len(train), dtype=objective.dtype)
    weights[torch.arange(1, len(weights)), train.positions(ids)] = 0
    start = {name: value.expand(len(weights), *value.shape).clone() for name, value in objective.params.items()}
    batch = min(REFIT_BATCH, len(train))
    schedule = MinibatchSchedule(epochs, batch, REFIT_RATE, optimiser=SGD(momentum=MOMENTUM))
    ended = train_minibatches(
        objective, start, train, schedule, [order] * len(weights), data_weights=weights, averaging=averaging
    )
    with torch.no_grad():
        before = float(objective.losses(objective.params, test.batch()))
        losses = torch.cat([one.losses(one.params, test.batch()) for one in ended])
    return losses[1:] - losses[0], float(losses[0]) - before


def refitted(
    protocol: RetrainingProtocol, objective: Objective, train: Dataset, test: Dataset, ids: Int[Tensor, " k"]
) -> Float[Tensor, " k"]:
    """The change of the test loss when each image is removed, less that of the control; NaN where no minimum was found.

    Args:
        protocol: To a minimum of its own.
        objective: The trained network.
        train: Training images.
        test: The test image.
        ids: Of the images.
    """
    refits = protocol.refit(objective, train, ids)
    reached = refits.converged[0, 1:] & refits.converged[0, 0]
    return loss_changes(refits, test)[0, :, 0].where(reached, torch.nan)
