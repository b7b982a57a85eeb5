"""Per-example losses of any criterion that torch or its user has, checked against what the criterion itself returns."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import fields, is_dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import vmap

from bayes_influence.arguments import kind_of
from bayes_influence.errors import BayesInfluenceError
from bayes_influence.moments.moments import Moments
from bayes_influence.objectives.plain_formulas import plain_formulas
from bayes_influence.objectives.predictive import Predictive
from bayes_influence.torch_internals import tree_flatten, tree_leaves, tree_unflatten

logger = logging.getLogger(__name__)

OF_CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss)
"""Criteria of torch whose whole-number targets are classes, one per output."""

_CLASS_WEIGHTS = (
    ". Weights of classes are divided by their sum over the batch: pass CrossEntropyLoss(weight=w / w[targets].mean(), "
    "reduction='none') with the mean over the training targets, which is the same objective over all of them"
)

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
        if isinstance(criterion, type):
            raise TypeError(
                f"a loss must be made first, got the class {criterion.__name__}; say {criterion.__name__}()"
            )
        if getattr(criterion, "reduction", None) == "sum":
            raise InseparableLossError(
                f"{_named(criterion)} sums over the batch, so that how much a regulariser weighs depends on the batch "
                "size; give it reduction='mean', and the weight decay that belongs to the mean"
            )
        self.criterion = criterion
        self._each = _each(criterion)

    def __repr__(self) -> str:
        return f"PerExample({_named(self.criterion)})"

    @property
    def takes_logits(self) -> bool:
        """Whether the criterion is one of torch's own."""
        return _is_of_torch(self.criterion)

    def __call__(self, outputs: Any, targets: Tensor) -> Float[Tensor, " B"]:
        """Losses, one per example."""
        losses = self._alone(outputs, targets)
        if losses.ndim == 2 and losses.shape[1] == 1:
            return losses.squeeze(1)
        if losses.ndim > 1:
            raise InseparableLossError(
                f"{_named(self.criterion)} returns losses of shape {tuple(losses.shape)}, several for every example; "
                "take reduction='mean', or a function that adds them up or averages them"
            )
        return losses if losses.ndim else self._taken_apart(outputs, targets)

    def _alone(self, outputs: Any, targets: Tensor) -> Tensor:
        """What the criterion returns, without its mean where it is one of torch's."""
        if self._each is None:
            return _evaluated(self.criterion, outputs, targets)
        return _evaluated(self._each, outputs, targets).reshape(len(targets), -1).mean(1)

    def _taken_apart(self, outputs: Any, targets: Tensor) -> Float[Tensor, " B"]:
        """The criterion's number for every example alone, batched where torch can, also in plain formulas."""
        leaves, rebuild = _leaves(outputs)
        rows = [isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) == len(targets) for leaf in leaves]
        if not any(rows) and not all(isinstance(leaf, Tensor) for leaf in leaves):
            raise InseparableLossError(
                f"{_named(self.criterion)} averages over the batch, and of the outputs, a {kind_of(outputs)}, no part "
                f"is known that has one row for each of {len(targets)} examples; return a tensor, a tuple, a dict or a "
                "dataclass of tensors, or give the loss reduction='none'"
            )

        def of_one(target: Tensor, *own: Tensor) -> Tensor:
            parts = iter(own)
            alone = [next(parts).unsqueeze(0) if row else leaf for leaf, row in zip(leaves, rows, strict=True)]
            return self._alone(rebuild(alone), target.unsqueeze(0))

        batched = [leaf for leaf, row in zip(leaves, rows, strict=True) if row]
        for context in (nullcontext, plain_formulas):
            try:
                with context():
                    return vmap(of_one, randomness="error")(targets, *batched)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                logger.debug("%s is not batched: %s", _named(self.criterion), error)
        return torch.stack([of_one(*row) for row in zip(targets, *batched, strict=True)])

    def check_targets(self, outputs: Any, targets: Tensor, name: str, ids: Tensor) -> None:
        """Refuses classes for which there is no output, where the criterion is one of torch's over classes.

        Args:
            outputs: Of a batch.
            targets: Of the batch.
            name: Of the data set, for the message.
            ids: (B,), named in the message.

        Raises:
            ValueError: If there is one.
        """
        if not isinstance(self.criterion, OF_CLASSES) or not isinstance(outputs, Tensor) or outputs.ndim < 2:
            return
        if targets.is_floating_point() or targets.shape != (len(outputs), *outputs.shape[2:]):
            return
        count, ignored = outputs.shape[1], getattr(self.criterion, "ignore_index", None)
        wrong = ((targets < 0) | (targets >= count)) & (targets != ignored)
        if wrong.any():
            first = int(wrong.nonzero()[0, 0])
            raise ValueError(
                f"{name}: {_named(self.criterion)} needs classes in 0..{count - 1}, one per output, got "
                f"{int(targets[wrong][0])} (the first is id {int(ids[first])}); number the classes from 0, or give the "
                f"network more outputs"
            )

    def check_mean(self, outputs: Any, targets: Tensor) -> None:
        """Holds the mean of the losses against the criterion's own number for the batch.

        Args:
            outputs: Of a batch.
            targets: Of the batch.

        Raises:
            InseparableLossError: If they differ.
        """
        whole = _evaluated(self.criterion, outputs, targets)
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
                + (_CLASS_WEIGHTS if getattr(self.criterion, "weight", None) is not None else "")
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


def _each(criterion: Criterion) -> nn.Module | None:
    """One of torch's modules without its mean over the batch; nothing for any other criterion."""
    if not (_is_of_torch(criterion) and getattr(criterion, "reduction", None) == "mean"):
        return None
    single: Any = copy.deepcopy(criterion)
    single.reduction = "none"
    return single


def _evaluated(criterion: Criterion, outputs: Any, targets: Tensor) -> Tensor:
    """What a criterion returns, on the device of the outputs.

    Raises:
        TypeError: If one of torch's is given what is no tensor, or a function fails on what is none.
    """
    if isinstance(outputs, Tensor):
        return _fitting(criterion, outputs)(outputs, targets)
    if _is_of_torch(criterion):
        raise TypeError(f"{_named(criterion)} takes one tensor, and the network returns {_part_of(outputs)}")
    try:
        return _fitting(criterion, outputs)(outputs, targets)
    except TypeError as error:
        raise TypeError(
            f"{_named(criterion)} fails ({error}) on all that the network returns, {_part_of(outputs)}"
        ) from error


def _part_of(outputs: Any) -> str:
    """What outputs that are no tensor are, and how a loss takes a part of them."""
    if isinstance(outputs, Moments):
        return (
            "Moments of a Bayesian one; take an expected likelihood: bi.TiltedCategorical() of classes, "
            "bi.ExpectedBernoulli() of labels, objectives.expected_likelihoods.ExpectedGaussian(None) of real targets"
        )
    if not isinstance(outputs, tuple | list | Mapping) or not outputs:
        return f"{kind_of(outputs)}; have it return a tensor"
    key = next(iter(outputs)) if isinstance(outputs, Mapping) else 0
    told = f" with {', '.join(map(str, outputs))}" if isinstance(outputs, Mapping) else f" of {len(outputs)}"
    return f"{kind_of(outputs)}{told}; pass the loss of its part, as in lambda outputs, y: loss(outputs[{key!r}], y)"


_moved: WeakKeyDictionary[nn.Module, dict[tuple[torch.dtype, torch.device], nn.Module]] = WeakKeyDictionary()
"""Criteria in the dtypes and on the devices that they were needed in."""


def _fitting(criterion: Criterion, outputs: Any) -> Criterion:
    """The criterion with its own numbers, such as weights of classes, in the dtype and on the device of the outputs."""
    like = next((leaf for leaf in _leaves(outputs)[0] if isinstance(leaf, Tensor) and leaf.is_floating_point()), None)
    if like is None or not isinstance(criterion, nn.Module):
        return criterion
    own = [value for value in (*criterion.parameters(), *criterion.buffers()) if value.is_floating_point()]
    if all(value.dtype == like.dtype and value.device == like.device for value in own):
        return criterion
    known, key = _moved.setdefault(criterion, {}), (like.dtype, like.device)
    if key not in known:
        known[key] = copy.deepcopy(criterion).to(dtype=like.dtype, device=like.device)
    return known[key]


def _leaves(outputs: Any) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """What outputs are made of, and the way back; a dataclass of its user's is taken apart into its fields."""
    if is_dataclass(outputs) and not isinstance(outputs, type) and tree_leaves(outputs) == [outputs]:
        names = [each.name for each in fields(outputs)]
        inner, structure = tree_flatten([getattr(outputs, name) for name in names])

        def rebuild(leaves: list[Any]) -> Any:
            made = copy.copy(outputs)
            for name, value in zip(names, tree_unflatten(leaves, structure), strict=True):
                object.__setattr__(made, name, value)
            return made

        return inner, rebuild
    leaves, structure = tree_flatten(outputs)
    return leaves, lambda new: tree_unflatten(new, structure)


def _named(criterion: Any) -> str:
    return getattr(criterion, "__name__", None) or type(criterion).__name__
