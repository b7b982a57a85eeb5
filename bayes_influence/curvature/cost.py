"""What work costs: which sizes are small, what is there, the plan that work states first, and how far it has come."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from bayes_influence.errors import BayesInfluenceError

logger = logging.getLogger(__name__)

T = TypeVar("T")

DENSE_SIZE = 2000
"""Up to this P a matrix is built, factored or decomposed: seconds, and exact."""

DENSE_WORK = 1e13
"""Multiplications and additions, some ten minutes of a core, above which not even a small matrix is built unasked."""

DENSE_COPIES = 5
"""Matrices of P^2 that are held at once while one is built, symmetrised and factored: measured.

For those above 32 MB; what smaller ones are made of is not given back at once.
"""

SMALL_BYTES = 1 << 20
"""So much is there wherever anything runs: what is left is asked of the system, half a millisecond, for more."""

LONG_SECONDS = 5.0
"""Work that takes less is not announced."""

LINES, APART = 10, 2.0
"""Lines on the progress of one work where no bar shows it, at most, and the least seconds between two of them."""

STEADY = 2
"""Parts after which their time is taken as that of the others: the first one also warms up."""


class TooLargeError(BayesInfluenceError, MemoryError):
    """Work that does not fit into the memory that is left, refused before it begins."""


@dataclass(frozen=True)
class Plan:
    """What some work needs.

    Attributes:
        what: The work, as the log and a refusal call it.
        held_bytes: Most bytes that it holds at once, beside what is there already.
        instead: Ways that need less, in options that exist.
        passes: How often every training example goes through the network; None where nothing does.
    """

    what: str
    held_bytes: int
    instead: str
    passes: float | None = None

    def __str__(self) -> str:
        passes = "" if self.passes is None else f", {self.passes:.3g} passes over the examples"
        return f"{self.what}: holds {shown_bytes(self.held_bytes)}{passes}"

    def check(self, device: torch.device) -> None:
        """Refuses work that cannot fit.

        Raises:
            TooLargeError: If less memory is left than is held; the message has the ways that fit.
        """
        left = available_bytes(device) if self.held_bytes > SMALL_BYTES else None
        if left is not None and self.held_bytes > left:
            raise TooLargeError(
                f"{self.what} holds {shown_bytes(self.held_bytes)}, but {shown_bytes(left)} are left on {device}; "
                f"{self.instead}"
            )

    def timed(self, parts: Iterable[T], total: int) -> Iterator[T]:
        """The parts of the work, as they are done; once the first ones are, the plan is logged with the whole's time.

        The parts should be alike. Nothing is logged of work that takes less than `LONG_SECONDS`.

        Args:
            parts: The parts.
            total: How many there are.
        """
        began, steady = time.perf_counter(), min(STEADY, total // 2)
        marks = [began]
        for number, part in enumerate(parts, start=1):
            yield part
            if number > steady:
                continue
            marks.append(time.perf_counter())
            if number == steady:
                self.announce(marks[-1] - began + (marks[-1] - marks[-2]) * (total - number))

    def announce(self, seconds: float) -> None:
        """Logs the plan, where it takes long; see `announce`."""
        announce(self, seconds)


def announce(work: object, seconds: float) -> None:
    """Logs what is done and what it takes, where that is long.

    Args:
        work: The work, as the log calls it.
        seconds: What the whole of it is going to take.
    """
    if seconds >= LONG_SECONDS:
        tell(f"{work}, about {shown_time(seconds)}")


def tell(sentence: str) -> None:
    """Logs what work is going to be done or has been done: the command line shows it, also where no terminal watches.

    Args:
        sentence: What is told.
    """
    logger.info("%s", sentence)


class ProgressLines:
    """How far some work has come, in `LINES` lines of the log at most, where no bar shows it.

    Args:
        what: The parts that are counted, such as "epoch".
        total: How many there are.
        done: How many of them were done before.
        hidden: Whether nobody wants to know, or a bar tells it.
    """

    def __init__(self, what: str, total: int, *, done: int = 0, hidden: bool = False) -> None:
        self.what, self.total, self.hidden = what, total, hidden
        self._start, self._line = done, done * LINES // max(1, total)
        self._began = self._told = time.perf_counter()

    def reached(self, done: int, said: str = "") -> None:
        """So many parts are done; the last line comes in any case.

        Args:
            done: How many.
            said: What else is told of them.
        """
        line, now = done * LINES // self.total, time.perf_counter()
        if self.hidden or (done < self.total and (line == self._line or now - self._told < APART)):
            return
        self._line, self._told = line, now
        left = (now - self._began) / (done - self._start) * (self.total - done)
        rest = f", about {shown_time(left)} left" if done < self.total else ""
        tell(f"{self.what} {done} of {self.total}{said and f': {said}'}{rest}")


def is_quickly_built(size: int, examples: int | None) -> bool:
    """Whether a matrix of P^2 is small, and its P products with so many examples, if with any, do not take long."""
    return size <= DENSE_SIZE and 6 * (examples or 0) * size**2 <= DENSE_WORK


def dense_plan(what: str, size: int, itemsize: int = 8) -> Plan:
    """Of building and factoring a matrix of P^2."""
    return Plan(
        f"{what} of {size} x {size} numbers",
        DENSE_COPIES * size**2 * itemsize,
        "take solver='conjugate-gradients', curvature='ekfac', or fewer parameters (parameters='last-layer')",
    )


def available_bytes(device: torch.device) -> int | None:
    """What can still be allocated on a device: the least of what machine, container and process have left.

    None where the system does not say.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type != "cpu":
        return None
    left = [room for room in (_of_machine(), _of_container(), _of_process()) if room is not None]
    return min(left, default=None)


def shown_bytes(count: float) -> str:
    """A number of bytes for people."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def shown_time(seconds: float) -> str:
    """A time for people."""
    if seconds < 120:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.2g} min" if seconds < 7200 else f"{seconds / 3600:.2g} h"


def _of_machine() -> int | None:
    try:
        found = re.search(r"^MemAvailable: +(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    return None if found is None else int(found[1]) * 1024


def _of_container() -> int | None:
    folder = Path("/sys/fs/cgroup")
    try:
        return int((folder / "memory.max").read_text()) - int((folder / "memory.current").read_text())
    except (OSError, ValueError):
        return None


def _of_process() -> int | None:
    try:
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError, ValueError):
        return None
    return None if limit == resource.RLIM_INFINITY else limit - used
