"""The minibatch trainer: any objective, one network or a stack of members, continued exactly where it was stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from bayes_influence.curvature.cost import ProgressLines
from bayes_influence.data.dataset import Dataset, check_dataset
from bayes_influence.moments.layers import is_calibrated
from bayes_influence.objectives.company import check_targets
from bayes_influence.objectives.members import Members, member
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import Flattening, Params, moved_like
from bayes_influence.training.averaging import IterateAverage, SwagPosterior
from bayes_influence.training.batch_norm import refreshed_buffers
from bayes_influence.training.calibration import refresh_due, refreshed_factors
from bayes_influence.training.denormals import denormals_flushed, zero_denormals
from bayes_influence.training.effects import watch_step
from bayes_influence.training.finiteness import CHECK_EVERY, check_finite
from bayes_influence.training.learning_rates import LearningRates
from bayes_influence.training.minibatch_schedule import MinibatchSchedule
from bayes_influence.training.optimisers import clipped
from bayes_influence.training.schedules import SWA
from bayes_influence.training.steps import StepValue, derived_seed, member_gradients, step_objective

TrainingState = dict[str, Tensor]
"""Everything a training needs to go on exactly: parameters, optimiser, buffers, averages, history, finished epochs."""


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Trained(Members):
    """Where a minibatch training ended: of averaged members the average, its running statistics refreshed.

    Attributes:
        values: (epochs, E) mean of the objective over each epoch's batches, as it was before each step.
        accuracies: (epochs, E) share of right predictions, likewise; NaN for regression.
        posteriors: SWAG's Gaussian of every member; empty for other averages.
    """

    values: Float[Tensor, "epochs E"]
    accuracies: Float[Tensor, "epochs E"]
    posteriors: tuple[SwagPosterior, ...] = ()

    def _replaced(self, rows: list[int], **changes: Any) -> Trained:
        own = {
            "values": self.values[:, rows],
            "accuracies": self.accuracies[:, rows],
            "posteriors": tuple(self.posteriors[row] for row in rows) if self.posteriors else (),
        }
        return super()._replaced(rows, **{**own, **changes})


def train_minibatches(
    objective: Objective,
    params: Params,
    train: Dataset,
    schedule: MinibatchSchedule,
    seeds: Sequence[int],
    *,
    names: Sequence[str] | None = None,
    buffers: Params | None = None,
    averaging: SWA | None = None,
    data_weights: Float[Tensor, "E n"] | None = None,
    step: StepValue | None = None,
    labels: Sequence[str] | None = None,
    state: TrainingState | None = None,
    on_epoch: Callable[[TrainingState], None] | None = None,
    progress: bool = False,
) -> Trained:
    """Minimises J(theta_e, w_e) for every member e in shuffled minibatches.

    A batch's objective is (1/|B|) sum_{i in B} w_i l_i + s R, with the whole regulariser: its gradient is unbiased for
    that of J. A member's order of examples, and its dropout masks, depend on its own seed only, so that it ends where
    it would end alone (up to rounding). On the CPU the same call gives the same bits, whether it ran through or was
    continued from a `state`.

    What a step does beside its value is seen in a step on a batch of the smallest size, see `watch_step`: members whose
    steps draw random numbers or move buffers take turns.

    Variance factors of a calibrated network are refreshed at the start, at the end, and between epochs, see
    `refresh_due`; in every step they are constants, so that J is one function between two refreshes.

    Args:
        objective: What is minimised; its network is used in training mode (see `step_objective`) and left as it is.
        params: Stacked starting parameters, (E, ...) each; left as they are. Their device and dtype are the training's.
        train: All training examples; batches move to the parameters' device and dtype.
        schedule: Epochs, batches and learning rates.
        seeds: One per member: of its order of examples and of its random numbers.
        names: Parameters that are trained; all but those with `requires_grad=False` when not given.
        buffers: Stacked buffers at the start, where they are not the objective's for every member.
        averaging: Average the iterates at the end of every epoch from its `start` on, and end at the average; `SWAG`
            collects a Gaussian around it as well. Its fractions are of the epochs.
        data_weights: w, one when not given; a zero removes an example from a member.
        step: What a step minimises when that is not the objective itself, e.g. a sampled bound.
        labels: What the members are called in messages, e.g. "swa, seed 3".
        state: Where to continue: what `on_epoch` was given after some epoch of the same call.
        on_epoch: Called with the state after every epoch, e.g. to store it.
        progress: Whether to show a progress bar with objective, accuracy and time left.

    Raises:
        NonFiniteTrainingError: If an objective becomes NaN or infinite, naming member and step.
        TypeError: If the targets are of another kind than the likelihood's.
        ValueError: If seeds, labels or weights do not fit the members, targets not the likelihood, the state is another
            training's, or a step cannot be repeated or taken on the smallest batch.
    """
    check_dataset(train, "the training examples")
    check_targets(objective, train)
    training = _Training(
        objective, params, train, schedule, seeds, names, buffers, averaging, data_weights, step, labels
    )
    if state is not None:
        training.restore(state)
    total, done = training.steps, training.epoch * training.batches
    with (
        torch.no_grad(),
        denormals_flushed(),
        tqdm(total=total, initial=done, unit="step", disable=None if progress else True) as bar,
    ):
        hidden = not (progress and bar.disable)
        lines = ProgressLines("epoch", schedule.epochs, done=training.epoch, hidden=hidden)
        while training.epoch < schedule.epochs:
            training.run_epoch(bar)
            lines.reached(training.epoch, training.standing)
            if on_epoch is not None:
                on_epoch(training.state())
        return training.result()


class _Training:
    def __init__(
        self,
        objective: Objective,
        params: Params,
        train: Dataset,
        schedule: MinibatchSchedule,
        seeds: Sequence[int],
        names: Sequence[str] | None,
        buffers: Params | None,
        averaging: SWA | None,
        data_weights: Float[Tensor, "E n"] | None,
        step: StepValue | None,
        labels: Sequence[str] | None,
    ) -> None:
        self.objective, self.train, self.schedule, self.seeds = objective, train, schedule, list(seeds)
        self.layout = Flattening.of(objective.params)
        self.flat = self.layout.flatten(params).clone()
        members = len(self.flat)
        self.labels = [f"member {index}" for index in range(members)] if labels is None else list(labels)
        if len(self.seeds) != members or len(self.labels) != members:
            raise ValueError(f"{members} members need as many seeds and labels, got {len(seeds)}, {len(self.labels)}")
        if data_weights is not None and data_weights.shape != (members, len(train)):
            raise ValueError(f"data weights must have shape {(members, len(train))}, got {tuple(data_weights.shape)}")
        averaged = schedule.epochs - averaging.first_step(schedule.epochs) if averaging else 0
        if averaging and averaging.rank and averaged < 2:
            raise ValueError(
                f"SWAG needs at least 2 averaged epochs, got {averaged} of {schedule.epochs}; train for more epochs, "
                "or start averaging earlier"
            )
        self.data_weights = None if data_weights is None else data_weights.to(self.flat)
        self.step = step_objective(objective) if step is None else step
        trained = objective.taking("all").names if names is None else names
        self.frozen = _frozen(trained, self.layout).to(self.flat.device)
        own = {name: buffer.expand(members, *buffer.shape) for name, buffer in objective.buffers.items()}
        self.buffers = {name: value.to(self.flat.device).clone() for name, value in {**own, **(buffers or {})}.items()}
        self.optimiser = schedule.optimiser.on(objective, trained)
        self.remembered = self.optimiser.start(self.flat)
        self.averaging = averaging
        self.average = IterateAverage(self.flat, averaging.rank) if averaging else None
        self.epoch, self.batches = 0, schedule.batches(len(train))
        self.steps = schedule.epochs * self.batches
        first = objective.at(*(member(part, 0) for part in (self.layout.unflatten(self.flat), self.buffers)))
        self.effects = watch_step(
            self.step, first, first.fitting(train.select(range(len(train) // self.batches)).batch())
        )
        self.rates = LearningRates(
            lambda step: schedule.rate(step, self.steps),
            schedule.epochs,
            self.batches,
            self.flat,
            schedule.plateau,
            averaging,
        )
        self.values = self.flat.new_zeros(0, members)
        self.accuracies = self.flat.new_zeros(0, members)

    def _refresh_factors(self, flat: Float[Tensor, "E P"]) -> None:
        """Finds the variance factors of a calibrated network there."""
        if is_calibrated(self.objective.network):
            params = self.layout.unflatten(flat)
            self.buffers = refreshed_factors(self.objective, params, self.buffers, self.train, self.data_weights)

    def run_epoch(self, bar: tqdm) -> None:
        """One pass over the examples, each member in its own order."""
        if self.epoch == 0:
            self._refresh_factors(self.flat)
        positions = self._orders().tensor_split(self.batches, dim=1)
        first = self.epoch * self.batches
        values, right = [], []
        for number, where in enumerate(positions):
            step = first + number
            regulariser_weight = self.objective.regulariser_weight * self.schedule.regulariser_factor(step, self.steps)
            noise = [derived_seed(seed, step, 1) for seed in self.seeds]
            weights = None if self.data_weights is None else self.data_weights.gather(1, where.to(self.flat.device))
            batch = moved_like(self.train.gathered(where), self.flat)
            gradient, value, hits = member_gradients(
                *(self.objective.network, self.step, self.layout, self.flat, self.buffers, batch, weights),
                *(regulariser_weight, noise),
                alone=self.effects.alone,
            )
            values.append(value)
            right.append(hits)
            checked = (number + 1) % CHECK_EVERY == 0 or number + 1 == self.batches
            if checked:
                recent = values[-CHECK_EVERY:]
                check_finite(torch.stack(recent), step + 1 - len(recent), self.labels)
                self._show(bar, number + 1, values, right, where.shape[1])
            if len(self.frozen):
                gradient[:, self.frozen] = 0
            gradient = gradient if self.schedule.clip is None else clipped(gradient, self.schedule.clip)
            self.optimiser.step(self.flat, gradient, self.rates.at(step), self.remembered)
            if checked:
                zero_denormals(self.flat)
        self._finish_epoch(torch.stack(values), torch.stack(right))

    def _orders(self) -> Int[Tensor, "E n"]:
        """A permutation of the examples for every member, from its seed and the epoch."""
        generators = [torch.Generator().manual_seed(derived_seed(seed, self.epoch, 0)) for seed in self.seeds]
        return torch.stack([torch.randperm(len(self.train), generator=generator) for generator in generators])

    def _finish_epoch(self, values: Float[Tensor, "steps E"], right: Float[Tensor, "steps E"]) -> None:
        mean = values.mean(0)
        self.values = torch.cat([self.values, mean.unsqueeze(0)])
        accuracy = (right.sum(0) / len(self.train)).to(self.accuracies)
        self.accuracies = torch.cat([self.accuracies, accuracy.unsqueeze(0)])
        self.rates.observe(self.epoch, mean)
        if self.average and self.epoch >= self.rates.first_averaged:
            self.average.update(self.flat)
        self.epoch += 1
        if refresh_due(self.epoch, self.schedule.epochs, self.batches):
            self._refresh_factors(self.flat)

    def _show(self, bar: tqdm, done: int, values: list[Tensor], right: list[Tensor], size: int) -> None:
        loss = float(torch.stack(values[-CHECK_EVERY:]).mean())
        accuracy = float(torch.stack(right[-CHECK_EVERY:]).mean()) / size
        bar.set_description(f"epoch {self.epoch + 1}/{self.schedule.epochs}", refresh=False)
        known = {} if isnan(accuracy) else {"accuracy": f"{accuracy:.4f}"}
        bar.set_postfix({"loss": f"{loss:.4f}", **known}, refresh=False)
        bar.update(self.epoch * self.batches + done - bar.n)

    @property
    def standing(self) -> str:
        """Objective in the last epoch, averaged over the members, and of classes accuracy."""
        accuracy = float(self.accuracies[-1].mean())
        known = "" if isnan(accuracy) else f", training accuracy {accuracy:.4f}"
        return f"objective {float(self.values[-1].mean()):.4f}{known}"

    def state(self) -> TrainingState:
        """A copy of everything that changes, by name."""
        parts = {
            "buffers": self.buffers,
            "optimiser": self.remembered,
            "average": self.average.tensors() if self.average else {},
            "rates": self.rates.tensors(),
        }
        named = {f"{part}/{name}": value for part, values in parts.items() for name, value in values.items()}
        own = {
            "flat": self.flat,
            "values": self.values,
            "accuracies": self.accuracies,
            "epoch": torch.tensor(self.epoch),
        }
        return {name: value.detach().clone() for name, value in (named | own).items()}

    def restore(self, state: TrainingState) -> None:
        """Continues from a state.

        Raises:
            ValueError: If it is of another training.
        """
        mine = self.state()
        growing = {"values", "accuracies", "average/deviations"}
        wrong = sorted(set(mine) ^ set(state))
        wrong += [
            name for name in mine if name in state and name not in growing and mine[name].shape != state[name].shape
        ]
        if wrong or int(state["epoch"]) > self.schedule.epochs:
            raise ValueError(
                "the state to continue from is of another network, schedule or scheme"
                + (f": {wrong[0]!r} does not fit" if wrong else f": it has {int(state['epoch'])} epochs")
            )
        on_device = {
            name: value.clone() if mine[name].ndim == 0 else value.to(self.flat.device, copy=True)
            for name, value in state.items()
        }
        for name in ("flat", "values", "accuracies"):
            setattr(self, name, on_device[name])
        self.epoch = int(on_device["epoch"])
        self.buffers = _part(on_device, "buffers")
        self.remembered = _part(on_device, "optimiser")
        if self.average:
            self.average.restore(_part(on_device, "average"))
        self.rates.restore(_part(on_device, "rates"))

    def result(self) -> Trained:
        """Where the training stands, at the average where there is one."""
        flat, buffers = self.flat, self.buffers
        posteriors: tuple[SwagPosterior, ...] = ()
        if self.average and self.average.count:
            flat = self.average.mean
            self._refresh_factors(flat)
            buffers = self.buffers
            if self.effects.moves:
                averaged = self.layout.unflatten(flat)
                buffers = refreshed_buffers(self.objective, averaged, buffers, self.train, self.schedule.batch_size)
            if self.average.rank:
                posteriors = tuple(self.average.posterior(index, self.layout) for index in range(len(flat)))
        params = {name: value.clone() for name, value in self.layout.unflatten(flat).items()}
        return Trained(
            objective=self.objective.at(member(params, 0), member(buffers, 0)),
            params=params,
            buffers=buffers,
            labels=tuple(self.labels),
            values=self.values,
            accuracies=self.accuracies,
            posteriors=posteriors,
        )


def _frozen(trained: Sequence[str], layout: Flattening) -> Int[Tensor, " k"]:
    """Where a flat vector has the parameters that are not trained; optimisers leave entries without a gradient."""
    sizes = zip(layout.names, layout.sizes, strict=True)
    return torch.cat([torch.full((size,), name not in trained) for name, size in sizes]).nonzero()[:, 0]


def _part(state: TrainingState, part: str) -> dict[str, Tensor]:
    return {name.partition("/")[2]: value for name, value in state.items() if name.startswith(f"{part}/")}
