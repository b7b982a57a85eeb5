"""The base class of the library's own errors, and torch's errors in our words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from bayes_influence.torch_internals import tree_leaves


class BayesInfluenceError(Exception):
    """Something that this library has a name for went wrong: a solve, a training, a stored file, a conversion.

    Every error class of the library is one and keeps the built-in class that says its kind (`ValueError`,
    `RuntimeError`, ...), so that either may be caught. A wrong argument is a plain `ValueError` or `TypeError`.
    """


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
