"""What a data set refuses, each in a sentence: what came, what was expected, what to do."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from bayes_influence.arguments import check_count, kind_of, shown
from bayes_influence.torch_internals import tree_leaves

logger = logging.getLogger(__name__)

NOTHING_SMALLER = "inputs are one tensor, or a tuple or dict of tensors, with the examples along the first axis"


def shapes_of(inputs: Any) -> str:
    """Shape and dtype of one example's tensors, in words."""
    leaves = tree_leaves(inputs)
    return " and ".join(f"{tuple(leaf.shape[1:])} {str(leaf.dtype).removeprefix('torch.')}" for leaf in leaves)


def check_tensors(name: str, inputs: Any, targets: Any) -> None:
    """Refuses inputs and targets that are not tensors with a leading axis.

    Raises:
        TypeError: If they are something else.
        ValueError: If there are no inputs, or a tensor has no axis.
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of a data set must be a string, got {shown(name)}")
    leaves = tree_leaves(inputs)
    if not leaves:
        raise ValueError(f"{name}: inputs hold no tensor; {NOTHING_SMALLER}")
    for what, value in [*(("inputs", leaf) for leaf in leaves), ("targets", targets)]:
        if not isinstance(value, Tensor):
            raise TypeError(
                f"{name}: {what} must be tensors, got {kind_of(value)}; convert with torch.as_tensor"
                + (f" ({NOTHING_SMALLER})" if what == "inputs" else "")
            )
        if value.ndim == 0:
            raise ValueError(f"{name}: {what} must have the examples along their first axis, got one number alone")


def check_lengths(name: str, inputs: Any, **others: Tensor) -> None:
    """Refuses parts that do not have the same number of examples.

    Raises:
        ValueError: If they have not.
    """
    lengths = {len(leaf) for leaf in tree_leaves(inputs)} | {len(part) for part in others.values()}
    if len(lengths) != 1:
        names = " and ".join([", ".join(["inputs", *list(others)[:-1]]), list(others)[-1]])
        raise ValueError(f"{name}: {names} must be equally long, got lengths {sorted(lengths)}")


def check_finite(name: str, values: Tensor, what: str, ids: Int[Tensor, " n"]) -> None:
    """Refuses real numbers that are NaN or infinite.

    Raises:
        ValueError: Naming the first example that has one.
    """
    if not values.is_floating_point() or _is_finite(values):
        return
    bad = ~torch.isfinite(values).reshape(len(values), -1).all(dim=1)
    if bad.any():
        raise ValueError(
            f"{name}: {what} must be finite, but {int(bad.sum())} of {len(values)} examples hold NaN or infinity (the "
            f"first is id {_first(bad, ids)}); drop or impute them"
        )


def checked_targets(name: str, targets: Tensor, ids: Int[Tensor, " n"], class_names: tuple[str, ...]) -> Tensor:
    """Targets as they are, whole numbers of any width as int64.

    Whole numbers along one axis are class indices from 0 on; along more they are sequences of them, in which negative
    ones may mark what a likelihood of the user's own leaves out. Real numbers belong to regressions.

    Args:
        name: Of the data set.
        targets: (n, ...).
        ids: (n,).
        class_names: One per class; none for a regression.

    Raises:
        TypeError: If they are booleans or complex numbers, or real numbers although there are class names.
        ValueError: If a real one is not finite; or if class indices are negative, beyond the class names, in one
            column, or one-hot.
    """
    if targets.dtype == torch.bool or targets.is_complex():
        kind = "booleans" if targets.dtype == torch.bool else "complex numbers"
        raise TypeError(
            f"{name}: targets must be class indices or real numbers, got {kind}; take targets.long() for two classes, "
            f"or targets.float() for a loss of your own"
        )
    if targets.is_floating_point():
        check_finite(name, targets, "targets", ids)
        if class_names:
            advice = "targets.argmax(1)" if targets.ndim > 1 else "targets.long()"
            raise TypeError(
                f"{name}: a data set with class names needs class indices, got {targets.dtype} of shape "
                f"{tuple(targets.shape)}; take {advice}, or give no class names for a regression or a loss of your own"
            )
        return targets
    targets = targets.to(torch.int64)
    _check_class_indices(name, targets, ids, len(class_names))
    return targets


def _check_class_indices(name: str, targets: Tensor, ids: Tensor, n_classes: int) -> None:
    if targets.ndim > 1:
        if targets[0].numel() == 1:
            raise ValueError(
                f"{name}: class indices must have shape ({len(targets)},), got {tuple(targets.shape)}; take "
                f"targets.flatten()"
            )
        if targets.ndim == 2 and _is_one_hot(targets):
            raise ValueError(
                f"{name}: targets of shape {tuple(targets.shape)} are one-hot, expected class indices; take "
                f"targets.argmax(1), or targets.float() for a loss of your own"
            )
    negative = targets < 0
    if targets.ndim == 1 and negative.any():
        raise ValueError(
            f"{name}: class indices start at 0, got {int(targets.min())} ({int(negative.sum())} of {len(targets)} "
            f"examples are negative, the first is id {_first(negative, ids)}); leave out examples without a class, "
            f"number the classes from 0, or take targets.float() for a loss of your own"
        )
    beyond = (targets >= n_classes).reshape(len(targets), -1).any(dim=1)
    if n_classes and beyond.any():
        from_one = int(targets.min()) == 1 and int(targets.max()) == n_classes
        raise ValueError(
            f"{name}: class indices must lie in 0..{n_classes - 1}, got {int(targets.min())}..{int(targets.max())} "
            f"(the first beyond is id {_first(beyond, ids)}); "
            + ("they count from 1, take targets - 1" if from_one else "name every class, or mend the targets")
        )


def _is_finite(values: Tensor) -> bool:
    """By the extremes, which NaN would be: a tenth of the time of looking at every number's own answer."""
    return values.numel() == 0 or bool(torch.isfinite(torch.stack(torch.aminmax(values))).all())


def _is_one_hot(targets: Int[Tensor, "n k"]) -> bool:
    """Whether every row is a single 1 among zeros; of a few sequences that may be chance."""
    return len(targets) > 3 and bool(((targets == 0) | (targets == 1)).all() and (targets.sum(1) == 1).all())


def check_batch_size(size: int) -> None:
    """Refuses sizes that are not positive.

    Raises:
        TypeError: If one is no whole number.
        ValueError: If one is not.
    """
    check_count(**{"the batch size": size})


def check_class_counts(
    name: str,
    targets: Int[Tensor, " n"],
    n_classes: int,
    class_names: tuple[str, ...],
    n_outputs: int | None,
    fewest: int = 2,
) -> None:
    """Refuses classes with too few members, and another number of them than outputs.

    Args:
        name: Of the data set.
        targets: Class indices.
        n_classes: How many there are.
        class_names: One per class, or none.
        n_outputs: How many outputs the network has, if they should be compared.
        fewest: How many members every class needs.

    Raises:
        ValueError: If a class has fewer members, such as one where an example is to be left out, or the numbers differ.
    """
    counts = torch.bincount(targets, minlength=n_classes).tolist()
    for index, count in enumerate(counts):
        if count < fewest:
            label = f" ({class_names[index]})" if class_names else ""
            purpose = "to leave one out" if fewest == 2 else "to learn it"
            raise ValueError(
                f"{name}: class {index}{label} has {count} member{'s' * (count != 1)}, at least {fewest} are needed "
                f"{purpose}; add examples or drop the class"
            )
    if n_outputs is not None and n_outputs != n_classes:
        raise ValueError(
            f"{name} has {n_classes} classes, but the network has {n_outputs} outputs; "
            f"build it with n_outputs={n_classes}"
        )


def check_weights(name: str, weights: Any, ids: Int[Tensor, " n"]) -> None:
    """Refuses weights that are not one real number of at least 0 for every example, or all 0.

    Raises:
        TypeError: If they are no tensor.
        ValueError: If they are not as above.
    """
    if not isinstance(weights, Tensor):
        raise TypeError(f"{name}: weights must be a tensor, got {kind_of(weights)}; convert with torch.as_tensor")
    if not weights.is_floating_point() or weights.shape != ids.shape:
        raise ValueError(
            f"{name}: weights must be {len(ids)} real numbers, one per example, got {weights.dtype} of shape "
            f"{tuple(weights.shape)}"
        )
    check_finite(name, weights, "weights", ids)
    if (weights < 0).any() or not weights.any():
        raise ValueError(
            f"{name}: weights must be at least 0 and not all 0, got {float(weights.min()):g} to "
            f"{float(weights.max()):g}; leave out what must not count, or do without weights"
        )


def checked_names(name: str, names: Iterable[str], what: str, columns: int | None = None) -> tuple[str, ...]:
    """Names of features or classes as a tuple.

    Args:
        name: Of the data set.
        names: One per feature or class.
        what: What they name.
        columns: How many there have to be, if any are given.

    Raises:
        TypeError: If they are one string, or not strings.
        ValueError: If their number is wrong, or one occurs twice.
    """
    found = (names,) if isinstance(names, str) or not isinstance(names, Iterable) else tuple(names)
    wrong = found if isinstance(names, str) else [each for each in found if not isinstance(each, str)]
    if wrong:
        raise TypeError(f"{name}: {what} names must be a tuple of strings, got {kind_of(wrong[0])} {wrong[0]!r}")
    if found and columns is not None and len(found) != columns:
        raise ValueError(f"{name}: {len(found)} {what} names for {columns} {what}s; give one each, or none")
    if len(set(found)) != len(found):
        twice = next(each for each in found if found.count(each) > 1)
        raise ValueError(f"{name}: {what} names must differ, got {twice!r} twice")
    return found


def warn_of_equal_targets(name: str, targets: Tensor) -> None:
    """Warns where training targets are all the same, one example's among them: there is nothing to learn then.

    Args:
        name: Of the data set.
        targets: Of its training examples.
    """
    if len(targets) == 1:
        logger.warning("%s: there is one training example, from which nothing can be learned but itself", name)
    elif bool((targets == targets[:1]).all()):
        same = f"{targets[0].item():.4g}" if targets[0].numel() == 1 else "the same"
        logger.warning("%s: all %d training targets are %s; nothing can be learned from them", name, len(targets), same)


def _first(bad: Tensor, ids: Tensor) -> int:
    return int(ids[bad.nonzero()[0, 0]])
