"""`Objective`: the one function that is trained, linearised and retrained."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from bayes_influence.data.dataset import Batch
from bayes_influence.objectives.parameters import Flattening, Params, detached_params, select_names
from bayes_influence.objectives.regularisers import NoRegulariser

Likelihood = Callable[[Any, Tensor], Tensor]
"""Per-example losses (B,) from the network's outputs and the targets; never reduced over the batch."""

Regulariser = Callable[[Params], Tensor]
"""Everything in the objective that is not data, a scalar: weight decay, or KL(q||p)/n."""


@dataclass(frozen=True, eq=False)
class Objective:
    """J(theta, w) = (1/n) sum_i w_i l_i(theta) + s R(theta): data term, regulariser R and its weight s.

    Training minimises J at w = 1, influence linearises the minimiser in w, and retraining minimises J again with
    some w_i = 0 (n, the length of the batch, stays what it was). The network is called functionally and in
    evaluation mode: nothing mutates it, so an objective is safe under `vmap`, `grad` and `jvp`.

    Attributes:
        network: A deterministic network, or one that `to_bayesian` made.
        likelihood: `(outputs, targets) -> (B,)` losses.
        regulariser: `(params) -> ()`.
        regulariser_weight: s; 0 switches the regulariser off, and 1 is the objective itself.
        selection: Which parameters influence is taken in, see `select_names`.
        params: Where the objective stands: the fitted parameters. The network's own when not given.

    Raises:
        ValueError: If the selection names no parameter, or `params` do not belong to the network.
    """

    network: nn.Module
    likelihood: Likelihood
    regulariser: Regulariser = field(default_factory=NoRegulariser)
    regulariser_weight: float = 1.0
    selection: str | Sequence[str] = "all"
    params: Params = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.network.training:
            self.network.eval()
        own = dict(self.network.named_parameters())
        if not self.params:
            object.__setattr__(self, "params", detached_params(self.network))
        if set(self.params) != set(own):
            raise ValueError(f"params must name the network's parameters {sorted(own)}, got {sorted(self.params)}")
        wrong = [name for name, value in self.params.items() if value.shape != own[name].shape]
        if wrong:
            raise ValueError(
                f"parameter {wrong[0]!r} must have shape {tuple(own[wrong[0]].shape)}, "
                f"got {tuple(self.params[wrong[0]].shape)}; take one member out of a stack with `member`"
            )
        select_names(self.network, self.selection)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters that influence is taken in."""
        return select_names(self.network, self.selection)

    @property
    def layout(self) -> Flattening:
        """How those parameters are laid out as a vector of length P."""
        return Flattening.of(self.params, self.names)

    def at(self, params: Params) -> Objective:
        """The same objective, standing at other parameters."""
        return replace(self, params={name: params[name].detach() for name in self.params})

    def double(self) -> Objective:
        """The same objective with its parameters, and the network's buffers, in float64."""
        params = {name: value.double() for name, value in self.params.items()}
        buffers = list(self.network.buffers())
        if all(not buffer.is_floating_point() or buffer.dtype == torch.float64 for buffer in buffers):
            return replace(self, params=params)
        return replace(self, params=params, network=copy.deepcopy(self.network).double())

    def outputs(self, params: Params, inputs: Any) -> Any:
        """What the network returns at `params`: a tensor, or `Moments` for a Bayesian network."""
        return functional_call(self.network, params, (inputs,))

    def losses(self, params: Params, batch: Batch) -> Float[Tensor, " B"]:
        """Per-example losses l_i, without the regulariser.

        Raises:
            ValueError: If the likelihood reduces over the batch.
        """
        losses = self.likelihood(self.outputs(params, batch.inputs), batch.targets)
        if losses.shape != (len(batch.targets),):
            raise ValueError(
                f"the likelihood must return one loss per example, shape ({len(batch.targets)},), got "
                f"{tuple(losses.shape)}; use reduction='none'"
            )
        return losses

    def value(
        self,
        params: Params,
        batch: Batch,
        data_weights: Float[Tensor, " B"] | None = None,
        regulariser_weight: float | Tensor | None = None,
    ) -> Float[Tensor, ""]:
        """J over one batch: the (weighted) mean loss plus the regulariser.

        Args:
            params: Where to evaluate.
            batch: The examples; their number is the n of the formula.
            data_weights: w; all one when not given. A zero removes an example without changing n.
            regulariser_weight: Overrides s, so that members of an ensemble can differ in it.
        """
        losses = self.losses(params, batch)
        weighted = losses if data_weights is None else data_weights * losses
        weight = self.regulariser_weight if regulariser_weight is None else regulariser_weight
        return weighted.mean() + weight * self.regulariser(params)

    def check(self, batch: Batch) -> None:
        """Evaluates the losses once and refuses what no later step could work with.

        Raises:
            ValueError: If the likelihood reduces over the batch, or a loss is not finite.
        """
        with torch.no_grad():
            losses = self.losses(self.params, batch)
        if not torch.isfinite(losses).all():
            raise ValueError(f"{int((~torch.isfinite(losses)).sum())} of {len(losses)} losses are not finite")
