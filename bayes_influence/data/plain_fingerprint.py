"""The fingerprint of what JSON can hold, the same as `fingerprint` finds, without torch."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping
from typing import Any


def plain_fingerprint(**parts: Any) -> str:
    """`fingerprint` of numbers, texts, None, tuples, lists and dicts, in any nesting: the same digits.

    Args:
        **parts: By name.

    Raises:
        TypeError: If a part is anything else.
    """
    digest = PlainDigest()
    for name in sorted(parts):
        digest.add(name, name)
        digest.add(parts[name], name)
    return digest.hexdigest()


def is_scalar(value: Any) -> bool:
    """Whether a value is a number, a text, or one of Python's constants."""
    constant = value is None or value is Ellipsis or value is NotImplemented
    return constant or type(value) in (bool, int, str, float, complex)


def order(key: Any) -> tuple[str, str]:
    """By what the keys of a mapping are sorted."""
    return type(key).__name__, repr(key)


class PlainDigest:
    """A hash that things are added to one after the other, each with its kind and its length."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def hexdigest(self) -> str:
        """The hash of all that was added, in hexadecimal digits."""
        return self._hash.hexdigest()

    def add(self, value: Any, where: str) -> None:
        """Adds what JSON can hold; `where` is what a message calls it."""
        if is_scalar(value):
            self._scalar(value)
        elif isinstance(value, tuple | list):
            for name, part in self._sequence(value):
                self.add(part, f"{where}{name}")
        elif isinstance(value, dict):
            for name, part in self._mapping(value):
                self.add(part, f"{where}{name}")
        else:
            raise TypeError(f"{where} is a {type(value).__name__}, which JSON cannot hold; take `fingerprint`")

    def _write(self, kind: str, *contents: bytes | memoryview) -> None:
        for content in (kind.encode(), *contents):
            self._hash.update(struct.pack("<q", len(content)))
            self._hash.update(content)

    def _text(self, kind: str, *texts: object) -> None:
        self._write(kind, *(str(text).encode("utf-8", "surrogatepass") for text in texts))

    def _scalar(self, value: Any) -> None:
        if type(value) is float or type(value) is complex:
            self._write(type(value).__name__, struct.pack("<dd", value.real, value.imag))
        else:
            self._text(type(value).__name__, value)

    def _sequence(self, value: tuple[Any, ...] | list[Any]) -> Iterator[tuple[str, Any]]:
        """The items of a sequence, each with what a message adds to the sequence's name."""
        self._text("sequence", type(value).__qualname__, len(value))
        yield from ((f"[{index}]", part) for index, part in enumerate(value))

    def _mapping(self, value: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
        """The pairs of a mapping, likewise."""
        self._text("mapping", type(value).__qualname__, len(value))
        yield from ((f"[{key!r}]", (key, value[key])) for key in sorted(value, key=order))
