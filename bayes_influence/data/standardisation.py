"""Standardisation that is fitted on the training part only."""

from __future__ import annotations

import torch
from torch import Tensor

from bayes_influence.data.dataset import Dataset, check_dataset


def standardise(train: Dataset, *others: Dataset, by: str = "feature") -> tuple[Dataset, ...]:
    """Every dataset with the training part's means subtracted and divided by its standard deviations.

    x <- (x - m_j)/s_j with m_j the mean and s_j^2 the mean squared deviation of the training part only: over the
    examples for each entry j of an input, or over examples and positions for each channel j of an image. An entry or
    channel that is constant there is centred and not divided.

    Args:
        train: The part that means and standard deviations are taken from.
        *others: Parts that are transformed by them and have no say in them.
        by: `"feature"`, or `"channel"` for inputs of shape (n, channels, ...).

    Returns:
        The transformed `train`, then each of `others`.

    Raises:
        TypeError: If the inputs are not one real tensor.
        ValueError: If the parts differ in the shape of an example, or `by` is unknown or does not fit it.
    """
    for part in (train, *others):
        check_dataset(part, "what is standardised")
        if not isinstance(part.inputs, Tensor) or not part.inputs.is_floating_point():
            raise TypeError(f"{part.name}: standardise needs the inputs as one tensor of real numbers")
        if part.inputs.shape[1:] != train.inputs.shape[1:]:
            raise ValueError(
                f"{part.name}: examples have shape {tuple(part.inputs.shape[1:])}, but those that the standardisation "
                f"is fitted on have {tuple(train.inputs.shape[1:])}"
            )
    mean, scale = _mean_and_scale(train, by)
    return tuple(part.with_inputs((part.inputs - mean) / scale) for part in (train, *others))


def _mean_and_scale(train: Dataset, by: str) -> tuple[Tensor, Tensor]:
    inputs = train.inputs
    if by not in ("feature", "channel"):
        raise ValueError(f"standardise by 'feature' or by 'channel', got {by!r}")
    if by == "channel" and inputs.ndim < 3:
        raise ValueError(f"{train.name}: channels need inputs of shape (n, channels, ...), got {tuple(inputs.shape)}")
    axes = (0,) if by == "feature" else (0, *range(2, inputs.ndim))
    constant = inputs.amax(dim=axes, keepdim=True) == inputs.amin(dim=axes, keepdim=True)
    scale = inputs.std(dim=axes, correction=0, keepdim=True)
    return inputs.mean(dim=axes, keepdim=True), torch.where(constant, 1.0, scale)


def standardise_targets(train: Dataset, *others: Dataset) -> tuple[Dataset, ...]:
    """Every dataset with its real targets standardised on the training part, each entry for itself.

    Args:
        train: The part that means and standard deviations are taken from.
        *others: Parts that are transformed by them and have no say in them.
    """
    mean, scale = target_units(train)
    return tuple(
        Dataset(
            part.inputs,
            (part.targets - mean) / scale,
            part.ids,
            part.name,
            feature_names=part.feature_names,
            weights=part.weights,
        )
        for part in (train, *others)
    )


def target_units(train: Dataset) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every entry of the targets; 1 for one that is constant."""
    deviation = train.targets.std(dim=0, correction=0)
    return train.targets.mean(dim=0), torch.where(deviation == 0, 1.0, deviation)
