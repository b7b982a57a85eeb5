"""What an example looks like to a person: a picture, a text, or a row of named numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.data.arguments import Arguments
from bayes_influence.data.catalogue import picture
from bayes_influence.data.checks import shapes_of
from bayes_influence.data.dataset import Dataset
from bayes_influence.torch_internals import tree_leaves

Decode = Callable[[list[int]], str]
"""Token ids to text, as a tokenizer's `decode`."""

SHOWN_COLUMNS = 6
"""Columns of a row that are told, those that stand out most."""

SHOWN_LETTERS = 280
"""Letters of a text that are told."""

SMALLEST_PICTURE = 4
"""Height and width from which on a tensor with one or three channels is taken for a picture."""


@dataclass(frozen=True, eq=False)
class Appearance:
    """An example as it is shown.

    Attributes:
        label: Its target: the class name, or the number.
        picture: (channels, height, width), None where it is no picture.
        text: What is written of it; nothing of a picture.
    """

    label: str
    picture: Float[Tensor, "channels height width"] | None
    text: str


def appearances(
    data: Dataset, ids: list[int], decode: Decode | None = None, among: Dataset | None = None
) -> list[Appearance]:
    """How examples are shown.

    A picture where the inputs are one tensor (channels, height, width) of one or three channels, or a known table of
    pictures; a text where they hold whole numbers along one axis, tokens, without those that an `attention_mask` of 0
    marks as padding, and their ids where there is no `decode`; a row where they are one vector: of its columns those
    whose value is furthest from the others', in units of the columns' own spread.

    Args:
        data: Whose examples.
        ids: Which.
        decode: For texts.
        among: The examples that a row stands out from; the data themselves when not given.
    """
    rows = data.at(ids).batch()
    drawn = [_picture(data, example, index, rows.inputs) for index, example in enumerate(ids)]
    texts = _texts(data if among is None else among, rows.inputs, decode)
    labels = [_label(data, target) for target in rows.targets]
    return [
        Appearance(label, image, "" if image is not None else text)
        for label, image, text in zip(labels, drawn, texts, strict=True)
    ]


def _picture(data: Dataset, example: int, index: int, inputs: Any) -> Tensor | None:
    if isinstance(inputs, Tensor) and inputs.ndim == 4:
        image = inputs[index]
        fits = image.shape[0] in (1, 3) and min(image.shape[1:]) >= SMALLEST_PICTURE
        return image if fits else None
    return picture(data, example) if isinstance(inputs, Tensor) and inputs.ndim == 2 else None


def _texts(among: Dataset, inputs: Any, decode: Decode | None) -> list[str]:
    leaves, tokens = tree_leaves(inputs), None if among.feature_names else _tokens(inputs)
    if tokens is not None:
        told = decode or (lambda ids: f"tokens {' '.join(map(str, ids))}")
        return [_shortened(told(row)) for row in tokens]
    if len(leaves) == 1 and leaves[0].ndim == 2:
        return _rows(among, leaves[0])
    return [f"numbers of shape {shapes_of(inputs)}"] * len(leaves[0])


def _tokens(inputs: Any) -> list[list[int]] | None:
    """Token ids of every example; None where there are none."""
    named = inputs.kwargs if isinstance(inputs, Arguments) else {}
    mask = named.get("attention_mask")
    rest = [leaf for leaf in tree_leaves(inputs) if leaf is not mask]
    found = [leaf for leaf in (named.get("input_ids"), *rest) if leaf is not None and leaf.ndim == 2]
    found = [leaf for leaf in found if not leaf.is_floating_point() and leaf.dtype != torch.bool]
    if not found:
        return None
    kept = torch.ones_like(found[0]) if mask is None or mask.shape != found[0].shape else mask
    return [row[own != 0].tolist() for row, own in zip(found[0], kept, strict=True)]


def _rows(among: Dataset, values: Tensor) -> list[str]:
    names = among.feature_names or tuple(f"[{column}]" for column in range(values.shape[1]))
    numbers = values.to(torch.float64)
    known = among.inputs.to(torch.float64) if among.holds_inputs else numbers
    spread = known.std(dim=0, correction=0).clamp(min=torch.finfo(torch.float64).tiny)
    order = ((numbers - known.mean(dim=0)) / spread).abs().argsort(dim=1, descending=True, stable=True)
    return [
        ", ".join(f"{names[column]} = {float(row[column]):.4g}" for column in columns[:SHOWN_COLUMNS].tolist())
        for row, columns in zip(numbers, order, strict=True)
    ]


def _label(data: Dataset, target: Tensor) -> str:
    if target.ndim:
        return "" if target.numel() > 1 else f"{float(target):.4g}"
    if target.is_floating_point():
        return f"{float(target):.4g}"
    return class_name(data, int(target))


def class_name(data: Dataset, target: int) -> str:
    """What a class is called; its number where classes have no names."""
    return data.class_names[target] if data.class_names else str(target)


def every_class_name(data: Dataset) -> tuple[str, ...]:
    """What all classes are called, by number."""
    return tuple(class_name(data, target) for target in range(data.n_classes))


def short_name(file: str) -> str:
    """A file's name with the folder that it lies in, which is the class of an image.

    Args:
        file: Its path.
    """
    return "/".join(Path(file).parts[-2:])


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN_LETTERS else f"{text[:SHOWN_LETTERS]} ..."
