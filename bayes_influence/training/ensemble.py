"""The ensemble trainer: every seed, and every refit, of one architecture trained at once on a leading member axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from bayes_influence.data.dataset import Batch
from bayes_influence.errors import BayesInfluenceError
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import Flattening, Params
from bayes_influence.training.schedules import SWA, PlateauState, Schedule
from bayes_influence.training.threads import threads_for, torch_threads
from bayes_influence.training.tracing import trace_members

CHECK_EVERY = 100
"""Steps between two looks for non-finite objectives: often enough to lose little, rare enough to cost nothing."""


class NonFiniteTrainingError(BayesInfluenceError, RuntimeError):
    """A member's objective became NaN or infinite; the message names the member and the step."""


@dataclass(frozen=True, eq=False)
class TrainedEnsemble:
    """Where a training ended.

    Attributes:
        params: Stacked parameters, (E, ...) each; of averaged members the average.
        values: (E,) objectives J at the last iterate before the last step.
        learning_rates: (E,) at the end.
        trace: (epochs, E) objectives before every step.
        recorded: (epochs, E, ...) what `record` returned before every step, None where nothing was asked for.
    """

    params: Params
    values: Float[Tensor, " E"]
    learning_rates: Float[Tensor, " E"]
    trace: Float[Tensor, "epochs E"]
    recorded: Float[Tensor, "epochs E *what"] | None = None


class _Adam:
    """Adam (Kingma & Ba 2015) on stacked flat parameters, with one learning rate per member."""

    def __init__(self, flat: Float[Tensor, "E P"], schedule: Schedule) -> None:
        self.flat, self.schedule, self.steps = flat, schedule, 0
        self.first, self.second = torch.zeros_like(flat), torch.zeros_like(flat)

    def step(self, gradient: Float[Tensor, "E P"], rates: Float[Tensor, " E"]) -> None:
        self.steps += 1
        fast, slow = self.schedule.betas
        self.first.lerp_(gradient, 1 - fast)
        self.second.mul_(slow).addcmul_(gradient, gradient, value=1 - slow)
        scale = (1 - slow**self.steps) ** 0.5
        denominator = (self.second.sqrt() / scale).add_(self.schedule.epsilon)
        self.flat.sub_(self.first.div(denominator).mul_((rates / (1 - fast**self.steps)).unsqueeze(1)))


class _LearningRates:
    """The learning rate of every member: by the plateau rule, and once averaging begins by SWA's for averaged ones."""

    def __init__(
        self, schedule: Schedule, averaged: Bool[Tensor, " E"], averaging: SWA | None, like: Float[Tensor, "E P"]
    ) -> None:
        self.schedule, self.averaged = schedule, averaged
        self.averaging = averaging if averaged.any() else None
        self.first_averaged = self.averaging.first_step(schedule.epochs) if self.averaging else schedule.epochs
        self.now = like.new_full((len(like),), schedule.learning_rate)
        self._initial = self.now
        self._plateau = PlateauState(schedule.plateau, len(like), like) if schedule.plateau else None

    def step(self, epoch: int, values: Float[Tensor, " E"]) -> None:
        """Sets the rates of the next step from the objectives of this one."""
        lowered = self.now.clone()
        if self._plateau:
            self._plateau.step(values, lowered)
        if self.averaging is None or epoch < self.first_averaged:
            self.now = self._initial = lowered
            return
        done = epoch - self.first_averaged + 1
        annealed = self.averaging.rate_after(done, self.schedule.epochs, self._initial)
        self.now = torch.where(self.averaged, annealed, lowered)


class _Average:
    """The running equal average of some members' iterates."""

    def __init__(self, members: Bool[Tensor, " E"], flat: Float[Tensor, "E P"]) -> None:
        self.members, self.count = members.unsqueeze(1), 0
        self.mean = torch.zeros_like(flat)

    def update(self, flat: Float[Tensor, "E P"]) -> None:
        self.count += 1
        self.mean.add_((flat - self.mean) / self.count)

    def result(self, flat: Float[Tensor, "E P"]) -> Float[Tensor, "E P"]:
        return torch.where(self.members, self.mean, flat)


def train_ensemble(
    objective: Objective,
    params: Params,
    batch: Batch,
    schedule: Schedule,
    *,
    data_weights: Float[Tensor, "E n"] | None = None,
    regulariser_weights: Float[Tensor, " E"] | None = None,
    averaged: Bool[Tensor, " E"] | None = None,
    averaging: SWA | None = None,
    own_data: bool = False,
    labels: Sequence[str] | None = None,
    record: Callable[[Params], Tensor] | None = None,
    progress: bool = False,
) -> TrainedEnsemble:
    """Minimises J(theta_e, w_e) for every member e with full-batch Adam.

    A member's result is what training it alone with torch's `Adam`, `ReduceLROnPlateau` and `swa_utils` gives (up to
    rounding): members share arithmetic, never numbers. Coupled weight decay is the regulariser's gradient.

    Args:
        objective: What is minimised.
        params: Stacked starting parameters, (E, ...) each; left as they are.
        batch: All training examples, shared by the members; where `own_data`, with a leading member axis.
        schedule: Steps and learning rates.
        data_weights: w, one when not given; a zero removes an example from a member.
        regulariser_weights: s of each member, the objective's own when not given.
        averaged: Which members end at their SWA average and follow its learning rates.
        averaging: How they average.
        own_data: Whether each member has its own examples.
        labels: What the members are called in error messages, e.g. "weight-decay, seed 3".
        record: Called with the stacked parameters before every step; returns one value or tensor per member.
        progress: Whether to show a progress bar.

    Returns:
        The trained ensemble. Memory: about six copies of the stacked parameters and, per step, the activations of all
        members.

    Raises:
        NonFiniteTrainingError: If an objective becomes NaN or infinite.
        ValueError: If members are averaged and no `averaging` says how.
    """
    layout = Flattening.of(objective.params)
    flat = layout.flatten(params).clone()
    members, examples = len(flat), batch.targets.shape[1 if own_data else 0]
    weights = flat.new_ones(members, examples) if data_weights is None else data_weights.to(flat)
    strengths = flat.new_full((members,), objective.regulariser_weight)
    strengths = strengths if regulariser_weights is None else regulariser_weights.to(flat)
    averaged = torch.zeros(members, dtype=torch.bool, device=flat.device) if averaged is None else averaged
    if averaged.any() and averaging is None:
        raise ValueError(f"{int(averaged.sum())} members are to be averaged, but `averaging` does not say how")

    views = layout.unflatten(flat)
    step = trace_members(objective, views, batch, weights, strengths, own_data=own_data, steps=schedule.epochs)
    adam = _Adam(flat, schedule)
    rates = _LearningRates(schedule, averaged, averaging, flat)
    average = _Average(averaged, flat) if averaged.any() else None
    trace = flat.new_empty(schedule.epochs, members)
    recorded: list[Tensor] = []

    with (
        torch.no_grad(),
        torch_threads(threads_for(step.largest)),
        tqdm(total=schedule.epochs, desc="training", unit="step", disable=None if progress else True) as bar,
    ):
        for epoch in range(schedule.epochs):
            if record is not None:
                recorded.append(record(views))
            gradients, trace[epoch] = step(views, batch, weights, strengths)
            adam.step(layout.flatten(gradients), rates.now)
            rates.step(epoch, trace[epoch])
            if average is not None and epoch >= rates.first_averaged:
                average.update(flat)
            if (epoch + 1) % CHECK_EVERY == 0 or epoch + 1 == schedule.epochs:
                _check_finite(trace, epoch + 1, labels)
                bar.update(epoch + 1 - bar.n)
    if average is not None:
        flat = average.result(flat)
    return TrainedEnsemble(
        params={name: value.clone() for name, value in layout.unflatten(flat).items()},
        values=trace[-1],
        learning_rates=rates.now,
        trace=trace,
        recorded=torch.stack(recorded) if recorded else None,
    )


def _check_finite(trace: Float[Tensor, "epochs E"], done: int, labels: Sequence[str] | None) -> None:
    start = (done - 1) // CHECK_EVERY * CHECK_EVERY
    bad = ~torch.isfinite(trace[start:done])
    if not bad.any():
        return
    step, which = (int(index) for index in bad.nonzero()[0])
    name = labels[which] if labels else f"member {which}"
    raise NonFiniteTrainingError(
        f"{name}: the objective became {float(trace[start + step, which])} at step {start + step}; lower the learning "
        "rate, standardise the inputs, or use a smaller initial scale"
    )
