"""Influence functions for Bayesian and deterministic neural networks, measured against retraining.

What is offered stands in `__init__.pyi`, as type checkers read it. A name is imported when it is first asked for, so
that `bayes-influence --help` need not wait for torch.
"""

import ast
from importlib import import_module
from importlib.metadata import version
from pkgutil import get_data
from typing import Any

__version__ = version("bayes-influence")


def _offered() -> dict[str, str]:
    """The module of every name that is imported in `__init__.pyi`."""
    lines = ast.parse(get_data(__name__, "__init__.pyi") or b"").body
    return {alias.name: str(line.module) for line in lines if isinstance(line, ast.ImportFrom) for alias in line.names}


_MODULES = _offered()
__all__ = sorted([*_MODULES, "__version__"])


def __getattr__(name: str) -> Any:
    """What is asked for here for the first time."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    """What is offered, imported or not."""
    return sorted({*globals(), *__all__})
