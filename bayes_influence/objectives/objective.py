"""`Objective`: the one function that is trained, linearised and retrained."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call

from bayes_influence.arguments import check_at_least, check_function, checked_move, kind_of, named, shown
from bayes_influence.data.arguments import as_call
from bayes_influence.data.batch import Batch
from bayes_influence.moments.layers import is_bayesian, is_calibrated
from bayes_influence.objectives.criteria import PerExample, read_outputs
from bayes_influence.objectives.parameters import (
    Flattening,
    Params,
    called_last,
    check_not_scripted,
    moved_like,
    same_memory,
    select_names,
    standing_at,
    state_of,
)
from bayes_influence.objectives.predictive import Predictive, check_outputs
from bayes_influence.objectives.regularisers import NoRegulariser
from bayes_influence.objectives.torch_errors import network_errors_in_words

Likelihood = Callable[[Any, Tensor], Tensor]
"""Per-example losses (B,) from the network's outputs and the targets; never reduced over the batch."""

Regulariser = Callable[[Params], Tensor]
"""Everything in the objective that is not data, a scalar: weight decay, or KL(q||p)/n.

One whose class states `separable = True` is a sum over parameters, each term a function of one of them (and of the
`_rho` beside it); of any other one nothing is assumed."""


@dataclass(frozen=True, eq=False, repr=False)
class Objective:
    """J(theta, w) = (1/n) sum_i w_i l_i(theta) + s R(theta): data term, regulariser R and its weight s.

    Training minimises J at w = 1, influence linearises the minimiser in w, and retraining minimises J again with
    some w_i = 0 (n, the length of the batch, stays what it was). A data set's own sample weights are inside l_i.

    The network that comes is copied once and never touched: `network` is the objective's own, in evaluation mode, and
    holds the parameters and buffers that the objective stands at. It is called functionally, one thread at a time, so
    an objective is safe under `vmap`, `grad` and `jvp`, and under threads.

    Attributes:
        network: A deterministic network, or one that `to_bayesian` made; of a fitted objective the trained network,
            ready to be called. Copy it before changing it.
        likelihood: `(outputs, targets) -> (B,)` losses.
        regulariser: `(params) -> ()`.
        regulariser_weight: s; 0 switches the regulariser off, and 1 is the objective itself.
        parameters: Which parameters influence is taken in, see `select_names`.
        params: Where the objective stands: the fitted parameters. The network's own when not given.
        buffers: Running statistics and the like there; the network's own when not given.

    Raises:
        ValueError: If `parameters` name no parameter, or `params` or `buffers` do not belong to the network.
        TypeError: If the network is no module, or likelihood or regulariser no function.
    """

    network: nn.Module
    likelihood: Likelihood
    regulariser: Regulariser = field(default_factory=NoRegulariser)
    regulariser_weight: float = 1.0
    parameters: str | Sequence[str] = "all"
    params: Params = field(default_factory=dict)
    buffers: Params = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.network, nn.Module):
            raise TypeError(f"an objective needs a network, an nn.Module, got {type(self.network).__name__}")
        check_not_scripted(self.network)
        check_function("the likelihood", self.likelihood, "pass an object such as CrossEntropy()")
        check_function("the regulariser", self.regulariser, "pass an object such as WeightDecay(0.01)")
        check_at_least(0, regulariser_weight=self.regulariser_weight)
        params, buffers = state_of(self.network, self.params, self.buffers)
        object.__setattr__(self, "params", params)
        object.__setattr__(self, "buffers", buffers)
        object.__setattr__(self, "network", standing_at(self.network, self.params, self.buffers))
        object.__setattr__(self, "_lock", threading.RLock())
        object.__setattr__(self, "_names", select_names(self.network, self.parameters))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.RLock())

    def __repr__(self) -> str:
        taken = self.parameters if isinstance(self.parameters, str) else list(self.names)
        count = sum(value.numel() for value in self.params.values())
        return (
            f"Objective({type(self.network).__name__} of {count} parameters, {named(self.likelihood)}, "
            f"{named(self.regulariser)} times {self.regulariser_weight:g}, parameters={taken!r}"
            f"{', its variance factors held' if is_calibrated(self.network) else ''})"
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters that influence is taken in."""
        return self._names  # type: ignore[attr-defined]

    @property
    def layout(self) -> Flattening:
        """How those parameters are laid out as a vector of length P."""
        return Flattening.of(self.params, self.names)

    @property
    def flat(self) -> FlatObjective:
        """J, its losses and outputs as functions of that vector, where the objective stands."""
        return FlatObjective(self, self.params, self.layout)

    @property
    def is_bayesian(self) -> bool:
        """Whether the network propagates means and variances."""
        return is_bayesian(self.network)

    @property
    def is_regularised(self) -> bool:
        """Whether a regulariser takes part, which gives J a minimum at finite parameters."""
        return self.regulariser_weight > 0 and not isinstance(self.regulariser, NoRegulariser)

    def fitting(self, tensors: Any) -> Any:
        """A nesting of tensors on the device of the parameters, real ones in their dtype."""
        return moved_like(tensors, next(iter(self.params.values())))

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters."""
        return next(iter(self.params.values())).dtype

    @property
    def device(self) -> torch.device:
        """Of the parameters."""
        return next(iter(self.params.values())).device

    def at(self, params: Params, buffers: Params | None = None) -> Objective:
        """The same objective, standing at other parameters (and buffers); itself where it stands there already."""
        if not isinstance(params, Mapping) or set(self.params) - set(params):
            raise ValueError(f"params must name the network's parameters {sorted(self.params)}, got {shown(params)}")
        held = self.buffers if buffers is None else {**self.buffers, **buffers}
        moved = {name: params[name].detach() for name in self.params}
        if same_memory(moved, self.params) and same_memory(held, self.buffers):
            return self
        return replace(self, params=moved, buffers=held)

    def taking(self, parameters: str | Sequence[str] | None) -> Objective:
        """The same objective with influence taken in other parameters; itself where none are named."""
        if parameters is None or parameters == self.parameters:
            return self
        return self._in(parameters, select_names(self.network, parameters))

    def _in(self, parameters: str | Sequence[str], names: tuple[str, ...]) -> Objective:
        """The same in other parameters: it stands where it stood, so that the network serves both, under one lock."""
        other = copy.copy(self)
        for name, value in {"parameters": parameters, "_names": names, "_lock": vars(self)["_lock"]}.items():
            object.__setattr__(other, name, value)
        return other

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Objective:
        """The same objective in another floating-point dtype or on another device."""
        dtype, device = checked_move(dtype, device)

        def moved(tensors: Params) -> Params:
            return {
                name: value.to(device=device, dtype=dtype if value.is_floating_point() else None)
                for name, value in tensors.items()
            }

        params, buffers = moved(self.params), moved(self.buffers)
        held = {**self.params, **self.buffers}
        if all(value is held[name] for name, value in {**params, **buffers}.items()):
            return self
        return replace(self, params=params, buffers=buffers)

    def resolved(self, inputs: Any) -> Objective:
        """The same objective with "last-layer" made the layer that is *called* last on these inputs.

        Without inputs only the order of registration is known, which need not be that of the calls.

        Raises:
            ValueError: If the network fails on the inputs, or calls no layer.
        """
        if not (isinstance(self.parameters, str) and self.parameters.startswith("last-layer")):
            return self
        with (
            self.exclusive() as network,
            torch.no_grad(),
            network_errors_in_words("the network fails", network, inputs),
        ):
            path = called_last(network, inputs)
        names = select_names(self.network, self.parameters, last_layer=path)
        return self._in(names, names)

    @contextmanager
    def exclusive(self) -> Iterator[nn.Module]:
        """The network, no other thread calling it meanwhile: for hooks, which the caller takes away again."""
        with self._lock:  # type: ignore[attr-defined]
            yield self.network

    def outputs(self, state: Params, inputs: Any) -> Any:
        """What the network returns at `state`: a tensor, `Moments` for a Bayesian network, or a nesting of them.

        Of a record with logits only these, where the likelihood takes them, see `read_outputs`.

        Args:
            state: Parameters, and buffers where they are others than the objective's; further names are passed over.
            inputs: A batch of inputs, as the network takes them.
        """
        known = {name: value for name, value in state.items() if name in self.params or name in self.buffers}
        with self.exclusive() as network:
            return read_outputs(self.likelihood, functional_call(network, known, *as_call(inputs)))

    def losses(self, state: Params, batch: Batch) -> Float[Tensor, " B"]:
        """Per-example losses l_i, times their sample weights where the batch has some, without the regulariser.

        Raises:
            TypeError: If this is no `Batch`.
            ValueError: If the likelihood reduces over the batch.
        """
        if not isinstance(batch, Batch):
            raise TypeError(f"losses are of a Batch, got {kind_of(batch)}; take dataset.batch()")
        return self.losses_of(self.outputs(state, batch.inputs), batch)

    def losses_of(self, outputs: Any, batch: Batch) -> Float[Tensor, " B"]:
        """The same from outputs that are there already.

        Raises:
            ValueError: If the likelihood reduces over the batch.
        """
        losses = self.likelihood(outputs, batch.targets)
        if not isinstance(losses, Tensor) or losses.shape != (len(batch.targets),):
            got = tuple(losses.shape) if isinstance(losses, Tensor) else kind_of(losses)
            asked = f"one loss per example, shape ({len(batch.targets)},)"
            raise ValueError(f"the likelihood must return {asked}, got {got}; use reduction='none'")
        return batch.weighted(losses)

    def check_batch(self, outputs: Any, batch: Batch, name: str, ids: Int[Tensor, " B"]) -> None:
        """Refuses targets of a batch that do not fit its outputs, where the likelihood says what these mean.

        Of a loss over batches, it is held against the mean of its examples' losses.

        Raises:
            InseparableLossError: If the likelihood was made of a loss over batches that is no mean.
            TypeError: If outputs or targets are of another kind than the likelihood says.
            ValueError: If they do not fit; data set and example are named.
        """
        if isinstance(self.likelihood, Predictive):
            self.likelihood.check(outputs, batch.targets, name, ids)
        elif isinstance(self.likelihood, PerExample):
            self.likelihood.check_targets(outputs, batch.targets, name, ids)
            self.likelihood.check_mean(outputs, batch.targets)

    def value(
        self,
        state: Params,
        batch: Batch,
        data_weights: Float[Tensor, " B"] | None = None,
        regulariser_weight: float | Tensor | None = None,
    ) -> Float[Tensor, ""]:
        """J over one batch: the (weighted) mean loss plus the regulariser.

        Args:
            state: Where to evaluate: parameters, and buffers where they are others than the objective's.
            batch: The examples; their number is the n of the formula.
            data_weights: w; all one when not given. A zero removes an example without changing n.
            regulariser_weight: Overrides s, so that members of an ensemble can differ in it.
        """
        losses = self.losses(state, batch)
        weighted = losses if data_weights is None else data_weights * losses
        weight = self.regulariser_weight if regulariser_weight is None else regulariser_weight
        return weighted.mean() + weight * self.regulariser({name: state[name] for name in self.params})

    def check(self, batch: Batch) -> None:
        """Evaluates the losses once and refuses what no later step could work with.

        Raises:
            TypeError: If outputs or targets are of another kind than the likelihood says.
            ValueError: If they do not fit it, it reduces over the batch, or a loss is not finite.
        """
        with torch.no_grad():
            outputs = self.outputs(self.params, batch.inputs)
            check_outputs(self.likelihood, outputs, batch.targets)
            losses = self.losses_of(outputs, batch)
        if not torch.isfinite(losses).all():
            raise ValueError(f"{int((~torch.isfinite(losses)).sum())} of {len(losses)} losses are not finite")


@dataclass(frozen=True, eq=False)
class FlatObjective:
    """An objective as a function of the flat vector theta of its selected parameters, every other one held.

    Attributes:
        objective: What is evaluated.
        fixed: Parameters (and buffers) where theta does not say otherwise.
        layout: Order of theta.
    """

    objective: Objective
    fixed: Params
    layout: Flattening

    @property
    def theta(self) -> Float[Tensor, " P"]:
        """The vector at `fixed`."""
        return self.layout.flatten(self.fixed)

    def state(self, theta: Float[Tensor, " P"]) -> Params:
        """All parameters at theta."""
        return {**self.fixed, **self.layout.unflatten(theta)}

    def outputs(self, theta: Float[Tensor, " P"], inputs: Any) -> Any:
        """What the network returns, see `Objective.outputs`."""
        return self.objective.outputs(self.state(theta), inputs)

    def losses(self, theta: Float[Tensor, " P"], batch: Batch) -> Float[Tensor, " B"]:
        """Per-example losses, see `Objective.losses`."""
        return self.objective.losses(self.state(theta), batch)

    def regulariser(self, theta: Float[Tensor, " P"]) -> Float[Tensor, ""]:
        """R, without its weight."""
        state = self.state(theta)
        return self.objective.regulariser({name: state[name] for name in self.objective.params})

    def value(
        self,
        theta: Float[Tensor, " P"],
        batch: Batch,
        data_weights: Float[Tensor, " B"] | None = None,
        regulariser_weight: float | Tensor | None = None,
    ) -> Float[Tensor, ""]:
        """J over one batch, see `Objective.value`."""
        return self.objective.value(self.state(theta), batch, data_weights, regulariser_weight)
