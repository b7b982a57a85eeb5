"""What the command line says of its work while it goes on: every warning once, however it came about."""

from __future__ import annotations

import logging
import time
import warnings
from typing import Any

from bayes_influence.cli.options import errors

COSTS = "bayes_influence.curvature.cost"
"""The logger that says of long work how long it takes, whose module would bring torch."""

STYLES = {logging.WARNING: "yellow", logging.ERROR: "red"}


class Said(logging.Handler):
    """Prints what is logged for people, to standard error, each warning once."""

    def __init__(self) -> None:
        super().__init__()
        self._warned: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Prints a record: the time of day, and what it says."""
        message = record.getMessage()
        if record.levelno >= logging.WARNING:
            if message in self._warned:
                return
            self._warned.add(message)
            message = f"{record.levelname.lower()}: {message}"
        hour = time.strftime("%H:%M:%S", time.localtime(record.created))
        style = STYLES.get(record.levelno)
        errors.print(f"{hour} {message}", style=style, markup=False, highlight=False, soft_wrap=True)


def say_what_is_done(*, verbose: bool) -> None:
    """Prints warnings and the plans of long work from now on.

    Args:
        verbose: Whether all else that is logged is printed, too.
    """
    logging.getLogger(COSTS).setLevel(logging.INFO)
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[Said()])
    warnings.showwarning = _logged


def _logged(message: Warning | str, *_: Any, **__: Any) -> None:
    """Logs what the warnings module would print with a file and a line of code."""
    logging.getLogger("bayes_influence").warning("%s", message)
