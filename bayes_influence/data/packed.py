"""Sealed files of tensors, bit for bit, and of what JSON can hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from bayes_influence.data.sealed import UNSEALED, DamagedFileError, seal, sealed_header


def packed(kind: str, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> bytes:
    """A sealed file of tensors, bit for bit, and of what JSON can hold.

    Args:
        kind: Of the file, as messages call it.
        tensors: By name, on any device.
        header: Plain JSON values.
    """
    held = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    # One entry only: safetensors writes several in no fixed order, and equal contents should be equal files.
    return seal(save(held, metadata={kind: f"{UNSEALED} {json.dumps(dict(header), sort_keys=True)}"}))


def unpacked(content: bytes, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a file that `packed` made.

    Raises:
        DamagedFileError: If the content is truncated, does not match its checksum, or is a file of another kind.
    """
    header = sealed_header(content)
    if kind not in header:
        raise DamagedFileError(f"it is no {kind}, but holds {sorted(header)}")
    return load(content), json.loads(header[kind][len(UNSEALED) :])
