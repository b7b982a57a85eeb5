"""Which peer libraries are there: a benchmark says which are not, leaves their rows out and goes on."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

from benchmarks.peers.outcome import Outcome
from benchmarks.peers.problem import Problem

Adapter = Callable[[Problem], Outcome]


def missing(entry: str) -> str:
    """What to tell of an adapter "with_library:function" whose library is not installed, empty if it is.

    Args:
        entry: "module:function" of benchmarks/peers; a module that is not called with_... needs no other library.
    """
    module = entry.partition(":")[0]
    library = module.removeprefix("with_")
    if library == module or find_spec(library) is not None:
        return ""
    return f"{library} is not installed (benchmarks/requirements.txt says how)"


def adapter(entry: str) -> Adapter:
    """The function of an adapter "module:function" of benchmarks/peers."""
    module, _, function = entry.partition(":")
    return getattr(import_module(f"benchmarks.peers.{module}"), function)


def present(entries: dict[str, str]) -> dict[str, str]:
    """The adapters whose library is installed; a line is printed for each of the others.

    Args:
        entries: "module:function" by the name to report.

    Raises:
        SystemExit: If none is left.
    """
    told = {name: missing(entry) for name, entry in entries.items()}
    for name, words in told.items():
        if words:
            print(f"{name}: left out, {words}", flush=True)
    kept = {name: entry for name, entry in entries.items() if not told[name]}
    if not kept:
        raise SystemExit(f"nothing to run: of {', '.join(entries)} none is installed")
    return kept
