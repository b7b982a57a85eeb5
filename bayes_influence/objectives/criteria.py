"""Per-example losses of any criterion that torch or its user has, checked against what the criterion itself returns."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import vmap

from bayes_influence.errors import BayesInfluenceError
from bayes_influence.objectives.predictive import Predictive
from bayes_influence.torch_internals import tree_map

Criterion = Callable[[Any, Tensor], Tensor]
"""A loss as training loops call it: (outputs, targets) -> one number, or one per example."""


class InseparableLossError(BayesInfluenceError, ValueError):
    """A loss over a batch that is not the mean of losses of its examples."""


class PerExample:
    """l_i of a criterion: what it returns for example i alone.

    A criterion with one number per batch is taken for J's data term, the mean over the examples, if it is that: on
    every batch that passes, the mean of the l_i is held against what the criterion returns for the batch. A sum over
    the batch, a mean over what differs from example to example (tokens that count, weights of classes), and anything
    that compares examples are refused.

    Args:
        criterion: A module of torch or a function. Of outputs with `logits` (as Transformers return them), one of
            torch's own modules is given these, see `read_outputs`.

    Raises:
        TypeError: If the criterion cannot be called.
        InseparableLossError: If it sums over the batch.
    """

    def __init__(self, criterion: Criterion) -> None:
        if not callable(criterion):
            raise TypeError(f"a loss must be a module or a function of outputs and targets, got {criterion!r}")
        if getattr(criterion, "reduction", None) == "sum":
            raise InseparableLossError(
                f"{_named(criterion)} sums over the batch, so that how much a regulariser weighs depends on the batch "
                "size; give it reduction='mean', and the weight decay that belongs to the mean"
            )
        self.criterion = criterion
        self._single = _unreduced(criterion)

    def __repr__(self) -> str:
        return f"PerExample({_named(self.criterion)})"

    @property
    def takes_logits(self) -> bool:
        """Whether the criterion is one of torch's own."""
        return _is_of_torch(self.criterion)

    def __call__(self, outputs: Any, targets: Tensor) -> Float[Tensor, " B"]:
        """Losses, one per example."""
        losses = self._single(outputs, targets)
        if losses.ndim == 2 and losses.shape[1] == 1:
            return losses.squeeze(1)
        if losses.ndim > 1:
            raise InseparableLossError(
                f"{_named(self.criterion)} returns losses of shape {tuple(losses.shape)}, several for every example; "
                "take reduction='mean', or a function that adds them up or averages them"
            )
        if losses.ndim:
            return losses

        def of_one(output: Any, target: Tensor) -> Tensor:
            alone = tree_map(lambda leaf: leaf.unsqueeze(0), output)
            return self._single(alone, target.unsqueeze(0))

        return vmap(of_one, randomness="error")(outputs, targets)

    def check_mean(self, outputs: Any, targets: Tensor) -> None:
        """Holds the mean of the losses against the criterion's own number for the batch.

        Args:
            outputs: Of a batch.
            targets: Of the batch.

        Raises:
            InseparableLossError: If they differ.
        """
        whole = self.criterion(outputs, targets)
        if whole.ndim:
            return
        losses = self(outputs, targets)
        mean = losses.mean()
        if not torch.isclose(whole, mean, rtol=10 * torch.finfo(losses.dtype).eps ** 0.5, equal_nan=True):
            total = "the sum" if torch.isclose(whole, losses.sum(), rtol=1e-3) else "no mean"
            raise InseparableLossError(
                f"{_named(self.criterion)} returns {float(whole):.6g} for a batch of {len(losses)} examples, and "
                f"{float(mean):.6g} on average for each of them alone: it is {total} over the examples' losses. Pass "
                "a function with one loss per example (reduction='none', then a mean over everything but the first "
                "axis), in which no example's loss depends on the others, their weights or their number of tokens"
            )


def read_outputs(likelihood: object, returned: Any) -> Any:
    """What a likelihood is given of what a network returns: the `logits` of a record that has some, as Transformers do.

    Likelihoods and measurements of the library and torch's criteria take them; a function of the user's own is given
    the record.

    Args:
        likelihood: Any.
        returned: What the network returned.
    """
    takes_logits = getattr(likelihood, "takes_logits", isinstance(likelihood, Predictive))
    if takes_logits and hasattr(returned, "logits"):
        return returned.logits
    return returned


def as_losses(loss: Criterion) -> Criterion:
    """One of the library's likelihoods as it is, and any other loss taken apart into examples.

    Args:
        loss: As a training loop calls it.
    """
    return loss if isinstance(loss, Predictive) else PerExample(loss)


def _is_of_torch(criterion: Criterion) -> bool:
    return isinstance(criterion, nn.Module) and type(criterion).__module__.startswith("torch.")


def _unreduced(criterion: Criterion) -> Criterion:
    """One of torch's modules without its mean over the batch; any other criterion as it is."""
    if not (_is_of_torch(criterion) and getattr(criterion, "reduction", None) == "mean"):
        return criterion
    single = copy.deepcopy(criterion)
    single.reduction = "none"  # type: ignore[attr-defined]
    return lambda outputs, targets: single(outputs, targets).reshape(len(targets), -1).mean(1)


def _named(criterion: Any) -> str:
    return getattr(criterion, "__name__", None) or type(criterion).__name__
