"""Influence of the single tokens of a training sequence: of each token's own term of the loss."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vmap

from bayes_influence.data.batch import Batch
from bayes_influence.forward_mode import jvp
from bayes_influence.influence.problem import FittedProblem
from bayes_influence.objectives.ways import first_way, reverse_along


def token_influence(
    problem: FittedProblem, solved: Float[Tensor, "P t"], ids: int | Iterable[int] | Tensor
) -> Float[Tensor, "t k T"]:
    """+1/n y_t' grad l_is for solved systems y_t = A^-1 g_t and the terms l_i = sum_s l_is of k training sequences.

    The derivatives of all terms along each y_t: one pass with tangents per test example, and no gradient of a term.

    Raises:
        TypeError: If the likelihood has no `terms`, which are (outputs, targets) -> (B, T).
        ValueError: If an id is unknown.
    """
    terms = getattr(problem.objective.likelihood, "terms", None)
    if terms is None:
        name = getattr(problem.objective.likelihood, "__name__", type(problem.objective.likelihood).__name__)
        raise TypeError(
            f"the influence of tokens needs a loss that is a sum over them, a likelihood with a method `terms` as "
            f"NextToken has it; {name!r} has none"
        )
    flat, theta = problem.reduced.flat, problem.theta

    def of_batch(batch: Batch) -> Tensor:
        def terms_at(at: Tensor) -> Any:
            found = terms(flat.outputs(at, batch.inputs), batch.targets)
            return found if batch.weights is None else batch.weights.unsqueeze(1) * found

        return first_way(
            problem.reduced.network,
            "products",
            lambda: vmap(lambda vector: jvp(terms_at, (theta,), (vector,))[1], in_dims=1)(solved),
            lambda: torch.stack([reverse_along(terms_at, theta, vector) for vector in solved.T]),
        )

    data = problem.data.at(ids)
    pieces = [of_batch(batch) for batch in data.batches(problem.batch_size)]
    return torch.cat(pieces, dim=1) / len(problem.data)
