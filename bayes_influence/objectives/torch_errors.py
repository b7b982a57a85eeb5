"""torch's errors in our words, and those of a network that is not given what it asks for."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from bayes_influence.data.arguments import as_call
from bayes_influence.torch_internals import tree_leaves

OF_TARGETS = ("labels", "label", "targets", "target")
"""What networks that compute their own loss call the argument which it needs."""


@contextmanager
def torch_errors_in_words(what: str, tensors: Any) -> Iterator[None]:
    """Says of an error of torch what it was given.

    Args:
        what: Whose error it is, as the message begins.
        tensors: What was given, in any nesting.

    Raises:
        ValueError: In place of torch's RuntimeError or IndexError.
        OutOfMemoryError: As it was.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, IndexError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        kinds = [(str(leaf.dtype).removeprefix("torch."), tuple(leaf.shape)) for leaf in tree_leaves(tensors)]
        given = " and ".join(f"{dtype} of shape {shape}" for dtype, shape in kinds)
        raise ValueError(f"{what} on {given} ({reason}); give it the kind and shape that it was trained on") from error


@contextmanager
def network_errors_in_words(what: str, network: nn.Module, inputs: Any) -> Iterator[None]:
    """As `torch_errors_in_words`, where a network is called; and of missing or superfluous arguments, which they are.

    Args:
        what: Whose error it is, as the message begins.
        network: Which is called in the block.
        inputs: What it is called with, see `as_call`.

    Raises:
        TypeError: If its `forward` takes other arguments, or fails where one for targets is left out.
        AttributeError: As the network raised it, for other reasons.
        ValueError, OutOfMemoryError: See `torch_errors_in_words`.
    """
    with torch_errors_in_words(what, inputs):
        try:
            yield
        except (TypeError, AttributeError) as error:
            advice = _about_arguments(network, inputs)
            if advice is None:
                raise
            raise TypeError(f"{what}: {advice} ({error})") from error


def _about_arguments(network: nn.Module, inputs: Any) -> str | None:
    """What is wrong with the arguments of a network that fails on them; None where nothing is known to be."""
    name = type(network).__name__
    args, kwargs = as_call(inputs)
    given = [*(f"{len(args)} by position" for _ in args[:1]), *(f"{key!r} by name" for key in kwargs)]
    signature = inspect.signature(network.forward)
    asked = [one for one in signature.parameters.values() if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    by_place = [one.name for one in asked if one.kind is not one.KEYWORD_ONLY][: len(args)]
    left = [one for one in asked if one.name not in by_place and one.name not in kwargs]
    for_targets = [one.name for one in left if one.name in OF_TARGETS]
    if for_targets:
        return (
            f"{name}.forward asks for {for_targets[0]!r}, which it is not given: the loss is computed from the outputs "
            f"and the targets here; have forward return its outputs alone where {for_targets[0]} is None, its default"
        )
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        takes = ", ".join(one.name for one in asked)
        return (
            f"{name}.forward takes ({takes}), and an example's inputs are {' and '.join(given)}; give as many as it "
            "takes: tuples of inputs and then the target, dicts with these names, or bi.Arguments"
        )
    return None
