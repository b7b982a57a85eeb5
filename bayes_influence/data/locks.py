"""One writer at a time, between processes and between threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from bayes_influence.errors import BayesInfluenceError

LOCK = ".lock"
"""Ending of the file that is locked while something is written."""


class BusyError(BayesInfluenceError, RuntimeError):
    """Another process, or another thread, writes what was to be written."""


@contextmanager
def only_writer(target: Path, what: str, waiting: float = 0.0) -> Iterator[None]:
    """Holds the one right to write something; a process that dies loses it, so that nothing is left locked.

    Args:
        target: What is to be written. The file that is locked stands beside it, is called `.<name>.lock`, and stays:
            a lock that is deleted can be held by two.
        what: What a message calls it.
        waiting: Seconds to wait for another writer.

    Raises:
        BusyError: If another process or thread holds it for longer than that.
        OSError: If the folder cannot be written, or its file system has no locks.
    """
    lock = FileLock(target.with_name(f".{target.name}{LOCK}"), timeout=waiting)
    try:
        held = lock.acquire()
    except Timeout:
        raise BusyError(
            f"another process is writing {what}; wait until it has finished, or choose another place"
        ) from None
    with held:
        yield
