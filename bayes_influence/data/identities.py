"""What names examples: ids and positions are whole numbers, and everything that takes them asks here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor


def example_ids(ids: int | Iterable[int] | Tensor) -> Int[Tensor, " k"]:
    """Ids as one list of whole numbers, in the order given and as often as given.

    A mask or a real number is never an id: read as one, `True` would be the example with id 1, and 1.7 as well.

    Args:
        ids: One id, or a tensor, an array or any other iterable of them.

    Raises:
        TypeError: If they are not whole numbers.
        ValueError: If they have more than one axis.
    """
    return _whole_numbers(ids, "ids", "ids with a mask, dataset.ids[mask]")


def example_positions(positions: int | Iterable[int] | Tensor, examples: int) -> Int[Tensor, " k"]:
    """Positions in a data set as one list of whole numbers, in the order given.

    Args:
        positions: One position, or a tensor, an array or any other iterable of them.
        examples: How many the data set has.

    Raises:
        TypeError: If they are not whole numbers.
        ValueError: If they have more than one axis, or one is not in 0..examples - 1.
    """
    found = _whole_numbers(positions, "positions", "positions with a mask, mask.nonzero().flatten()")
    outside = found[(found < 0) | (found >= examples)]
    if len(outside):
        raise ValueError(f"positions must lie in 0..{examples - 1}, got {outside[:5].tolist()}")
    return found


def shown_ids(ids: Int[Tensor, " k"], most: int = 10) -> str:
    """The first ids, for a printed result."""
    rest = f", and {len(ids) - most} more" if len(ids) > most else ""
    return ", ".join(map(str, ids[:most].tolist())) + rest


def _whole_numbers(values: Any, what: str, with_mask: str) -> Int[Tensor, " k"]:
    if isinstance(values, range) and max(abs(values.start), abs(values.stop)) < 2**63:
        return torch.arange(values.start, values.stop, values.step)
    if isinstance(values, Tensor | np.ndarray):
        kinds, shape = {_kind(values)} if values.ndim == 0 or len(values) else set(), tuple(values.shape)
    else:
        values = list(values) if isinstance(values, Iterable) and not isinstance(values, str | bytes) else [values]
        kinds, shape = {_kind(value) for value in values}, max((np.shape(value) for value in values), default=())
        shape = (len(values), *shape)
    if "bool" in kinds:
        raise TypeError(f"{what} must be whole numbers, got booleans; choose {with_mask}")
    if wrong := sorted(kind for kind in kinds if not kind.startswith(("int", "uint"))):
        raise TypeError(f"{what} must be whole numbers, got {', '.join(wrong)}; give each as an int")
    if len(shape) > 1:
        raise ValueError(f"{what} must be one list of whole numbers, got shape {shape}; flatten it")
    if isinstance(values, list) and (beyond := [int(value) for value in values if abs(int(value)) >= 2**63]):
        raise ValueError(f"{what} must fit into 64 bits, got {beyond[0]}; number the examples from 0 on")
    return torch.atleast_1d(torch.as_tensor(values)).to(torch.int64)


def _kind(value: Any) -> str:
    """Name of the type of a number, or of an array's entries."""
    return str(value.dtype).removeprefix("torch.") if hasattr(value, "dtype") else type(value).__name__
