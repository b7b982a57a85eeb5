"""Safetensors files that carry a SHA-256 of themselves, so that a flipped bit or a missing end is seen.

The hash stands in the file's header. It is that of the whole file with 64 zeros in the hash's own place, so that it
covers the header too, and can be put in after a file that was written piece by piece.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import load, save
from torch import Tensor

from bayes_influence.errors import BayesInfluenceError

UNSEALED = "sha256:" + "0" * 64
"""What the header of a file holds, once, before it is sealed."""

SEAL = re.compile(rb"sha256:[0-9a-f]{64}")

PIECE = 1 << 22
"""Bytes of a file that are read at a time."""


class DamagedFileError(BayesInfluenceError, ValueError):
    """A stored file that is truncated, or whose content is not what was written."""


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


def seal(content: bytes) -> bytes:
    """A safetensors file with its hash in the place of `UNSEALED`.

    Args:
        content: All of it, as safetensors' `save` returns it for metadata with `UNSEALED` in them.
    """
    start = _header_end(content[:8])
    digest = _digest([content[:start], content[start:]])
    return content[:start].replace(UNSEALED.encode(), digest, 1) + content[start:]


def sealed_header(content: bytes) -> dict[str, str]:
    """The metadata of a safetensors file, once its hash has been found to be right.

    Raises:
        DamagedFileError: If the content is truncated, holds no seal, or is not what was sealed.
    """
    start = _header_end(content[:8])
    return _checked(content[:start], [content[start:]])


def seal_file(path: Path) -> None:
    """Seals a file on disk, in place, and forces it there. Reads it once, a piece at a time."""
    with path.open("r+b") as file:
        header = _read_header(file)
        digest = _digest([header, *_pieces(file)])
        file.seek(header.index(UNSEALED.encode()))
        file.write(digest)
        file.flush()
        os.fsync(file.fileno())


def sealed_file_header(path: Path) -> dict[str, str]:
    """As `sealed_header`, of a file on disk. Reads it once, a piece at a time.

    Raises:
        DamagedFileError: If the file is truncated, holds no seal, or is not what was sealed.
    """
    with path.open("rb") as file:
        return _checked(_read_header(file), _pieces(file))


def _header_end(prefix: bytes) -> int:
    """Where the header ends: a safetensors file begins with the header's length in 8 bytes."""
    return 8 + int.from_bytes(prefix, "little")


def _read_header(file: BinaryIO) -> bytes:
    size = file.seek(0, 2)
    file.seek(0)
    prefix = file.read(8)
    return prefix + file.read(max(0, min(size, _header_end(prefix)) - 8))


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    return iter(lambda: file.read(PIECE), b"")


def _digest(pieces: Iterable[bytes]) -> bytes:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return b"sha256:" + digest.hexdigest().encode()


def _checked(header: bytes, body: Iterable[bytes]) -> dict[str, str]:
    found = SEAL.search(header)
    if found is None:
        raise DamagedFileError("it is truncated, or no file of this library")
    unsealed = header[: found.start()] + UNSEALED.encode() + header[found.end() :]
    if _digest([unsealed, *body]) != found.group():
        raise DamagedFileError("its content does not match its checksum")
    return json.loads(header[8:])["__metadata__"]
