"""What the published code of Epifano et al. does where it is not the paper, as strategies on the engine's functions.

Read from github.com/jrepifano/xai_is_fragile. Nothing here is advice: each function stands for one choice of `Choices`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bayes_influence.data.dataset import Dataset
from bayes_influence.objectives.derivatives import per_example_gradients, per_example_hessians
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import Params
from bayes_influence.objectives.reduction import reduce

LISSA_DAMPING, LISSA_SCALE = 0.01, 10.0
"""As published. They solve (H + 0.1 I) x = g."""

LISSA_TOLERANCE = 1e-5
"""Change of the iterate's norm at which the small network's recursion ends."""

LISSA_STEPS = 10_000
"""At most so many steps."""

EARLY_TOLERANCE, EARLY_STEPS, LISSA_MINIBATCH = 1e-3, 1000, 1024
"""Of the larger networks' recursion: change of the norm at which it ends, most steps, and examples in a product."""

REFIT_RATE = 1e-8
"""Learning rate of the refits on MNIST."""


def weight_only(objective: Objective, data: Dataset, *, dropped: bool) -> Objective:
    """The objective with influence taken in the last layer's weight alone.

    Args:
        objective: At its fit, a fully connected last layer.
        data: Examples that it is resolved on.
        dropped: Whether the layer's bias is left out of the network, too, as in half of the published series.
    """
    names = objective.taking("last-layer").resolved(data.inputs[:1]).names
    weight = next(name for name in names if name.endswith("weight"))
    objective = objective.taking((weight,))
    if not dropped:
        return objective
    bias = weight.removesuffix("weight") + "bias"
    without = {name: torch.zeros_like(objective.params[name]) for name in (bias, bias.replace(".mu.", ".sigma."))}
    return objective.at({**objective.params, **without})


def drops_bias(scheme: str, depth: int, width: int) -> bool:
    """Whether the published series of a scheme leaves the last layer's bias out of the estimate's network."""
    if scheme == "weight-decay":
        return False
    in_width_series = depth == 1 and width != 5
    return not (scheme == "none" and in_width_series)


def without_regulariser(objective: Objective) -> Objective:
    """The data term alone."""
    return replace(objective, regulariser_weight=0.0)


def plain_inverse_effects(
    objective: Objective, train: Dataset, test: Dataset, *, added: float = 0.0
) -> Float[Tensor, " n"]:
    """g_t' inv(H + added I) g_i / n of every training example, by `torch.linalg.inv` in the objective's own precision.

    The inverse of a singular matrix is not an error in floating point: it is rounding noise divided by rounding noise,
    of a size and a sign that say nothing. With H exactly singular it may still fail; estimates are NaN then.

    Args:
        objective: The objective that is linearised, with or without its regulariser.
        train: The n training examples.
        test: One test example.
        added: A multiple of the identity.
    """
    reduced = reduce(objective, train)
    head = reduced.problem.at(0)
    examples = head.fitting(reduced.examples().batch())
    passed = reduced.features_of(test)
    tests = test if passed is None else test.with_inputs(passed[0])
    hessian = per_example_hessians(head, examples).mean(dim=0) + _regulariser_hessian(head)
    gradients = per_example_gradients(head, examples)
    of_test = per_example_gradients(head, head.fitting(tests.batch()))[0]
    try:
        inverse = torch.linalg.inv(hessian + added * torch.eye(len(hessian)).to(hessian))
    except torch.linalg.LinAlgError:
        return torch.full((len(train),), torch.nan, dtype=torch.float64)
    return (gradients @ inverse.T @ of_test).double() / len(train)


def _regulariser_hessian(objective: Objective) -> Float[Tensor, "P P"]:
    """Of s R in the selected parameters; zero where s is."""
    flat = objective.flat
    size = len(flat.theta)
    if objective.regulariser_weight == 0:
        return flat.theta.new_zeros(size, size)
    hessian = torch.func.hessian(flat.regulariser)(flat.theta)
    return objective.regulariser_weight * hessian


def lissa_summed(
    hessian: Float[Tensor, "P P"], rhs: Float[Tensor, " P"], *, tolerance: float = LISSA_TOLERANCE
) -> tuple[Float[Tensor, " P"], int]:
    """The small network's LiSSA: h <- v + (1 - d) h - H h / s, and the *sum* of all its iterates over s.

    The fixed point of the recursion is s (H + s d I)^-1 v. The sum of T iterates is about T times that, less what the
    early ones lack: another vector, in which directions of small curvature weigh less.

    Args:
        hessian: H.
        rhs: v.
        tolerance: Change of the iterate's norm at which it ends.

    Returns:
        The sum divided by s, and the number of steps.
    """
    state, total, norm = rhs, torch.zeros_like(rhs), torch.ones(())
    for step in range(1, LISSA_STEPS + 1):
        state = rhs + (1 - LISSA_DAMPING) * state - hessian @ state / LISSA_SCALE
        total = total + state / LISSA_SCALE
        before, norm = norm, torch.linalg.vector_norm(state)
        if float((norm - before).abs()) <= tolerance:
            return total, step
    return total, LISSA_STEPS


def lissa_ended_early(
    product_of: Callable[[Tensor, Tensor], Tensor], examples: int, rhs: Float[Tensor, " P"], *, seed: int
) -> Float[Tensor, " P"]:
    """The larger networks' LiSSA: a minibatch in every step, ended when the iterate's norm changes little.

    Args:
        product_of: The Hessian's product on some examples, (positions, vectors (P, K)) -> (P, K).
        examples: n.
        rhs: v.
        seed: Of the minibatches.

    Returns:
        The last iterate over s: (H + s d I)^-1 v where it converged.
    """
    generator = torch.Generator().manual_seed(seed)
    state, norm = rhs, torch.ones(())
    for _ in range(EARLY_STEPS):
        drawn = torch.randperm(examples, generator=generator)[:LISSA_MINIBATCH]
        product = product_of(drawn, state.unsqueeze(1))[:, 0]
        state = rhs + (1 - LISSA_DAMPING) * state - product / LISSA_SCALE
        before, norm = norm, torch.linalg.vector_norm(state)
        if float((norm - before).abs()) <= EARLY_TOLERANCE:
            break
    return state / LISSA_SCALE


def positions_in_shuffled_pass(scores: Float[Tensor, " n"], generator: torch.Generator) -> Float[Tensor, " n"]:
    """Scores in the order in which a loader that shuffles came by the examples, read as if that were their own order.

    Args:
        scores: One per example.
        generator: Of the loader's order.
    """
    order: Int[Tensor, " n"] = torch.randperm(len(scores), generator=generator)
    return scores[order]


@dataclass
class LastIterate:
    """A recorder for `train_ensemble` that keeps where the iterates stand, when averages are what comes back.

    It is called before every step, so what it holds in the end is the iterate one step before the last.

    Attributes:
        params: The stacked parameters that it saw last.
    """

    params: Params | None = None

    def __call__(self, state: Params) -> Tensor:
        """Keeps a copy; one zero per member, since a recorder has to return something."""
        self.params = {name: value.detach().clone() for name, value in state.items()}
        return next(iter(state.values())).new_zeros(len(next(iter(state.values()))))
