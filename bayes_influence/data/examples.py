"""Examples one by one, as other libraries hold them, put together as tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader, default_collate

from bayes_influence.arguments import kind_of


def pairs_of(examples: Any, name: str) -> Iterator[tuple[Any, Any]]:
    """Every (input, target) pair, from the first to the last.

    A torch dataset need not end by itself: it is asked for as many examples as it says that it has.

    Args:
        examples: A torch dataset, or any other iterable.
        name: What the data are called.

    Raises:
        TypeError: If this is a loader of batches, not iterable, or does not hold pairs.
    """
    if isinstance(examples, DataLoader):
        raise TypeError(f"{name}: expected examples, got a DataLoader of batches; take its .dataset")
    if hasattr(examples, "__getitem__") and hasattr(examples, "__len__"):
        found: Iterable[Any] = (examples[index] for index in range(len(examples)))
    elif isinstance(examples, Iterable):
        found = examples
    else:
        raise TypeError(f"{name}: expected (input, target) pairs, got {kind_of(examples)}")
    for number, example in enumerate(found):
        if not isinstance(example, tuple | list) or len(example) != 2:
            raise TypeError(f"{name}: expected (input, target) pairs, but example {number} is {kind_of(example)}")
        yield example[0], example[1]


def stacked_pairs(pairs: Sequence[tuple[Any, Any]], name: str) -> tuple[Any, Any]:
    """Inputs and targets of all pairs, stacked along a new first axis.

    Args:
        pairs: At least one.
        name: What the data are called.

    Raises:
        TypeError: If they hold something that is neither a tensor, an array nor a number.
        ValueError: If there are none, or they differ in shape.
    """
    if not pairs:
        raise ValueError(f"{name}: a dataset needs at least one example, got none")
    parts = []
    for what, column in (("inputs", [pair[0] for pair in pairs]), ("targets", [pair[1] for pair in pairs])):
        try:
            parts.append(default_collate(column))
        except TypeError as error:
            raise TypeError(
                f"{name}: {what} must be tensors, arrays or numbers, got {kind_of(column[0])}; convert them first"
            ) from error
        except RuntimeError as error:
            raise ValueError(f"{name}: {what} must have one shape to be stacked; pad, crop or resize them") from error
    return parts[0], parts[1]
