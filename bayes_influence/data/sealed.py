"""Safetensors files that carry a SHA-256 of themselves, so that a flipped bit or a missing end is seen.

The hash stands in the file's header. It is that of the whole file with 64 zeros in the hash's own place, so that it
covers the header too, and can be put in after a file that was written piece by piece. Nothing here needs torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from bayes_influence.errors import BayesInfluenceError

UNSEALED = "sha256:" + "0" * 64
"""What the header of a file holds, once, before it is sealed."""

SEAL = re.compile(rb"sha256:[0-9a-f]{64}")

PIECE = 1 << 22
"""Bytes of a file that are read at a time."""


class DamagedFileError(BayesInfluenceError, ValueError):
    """A stored file that is truncated, or whose content is not what was written."""


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
