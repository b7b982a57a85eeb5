"""`module:name`: what the user's own code offers, found by its name."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any


def imported(name: str) -> Any:
    """What `module:name` names; the module may lie in the working directory.

    Args:
        name: A module's dotted name, a colon, and the name of something in it.

    Raises:
        ValueError: If it is not of that form, the module does not import, or has nothing of that name.
    """
    module_name, colon, attribute = name.partition(":")
    if not colon or not attribute.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
        raise ValueError(f"{name!r} names nothing; write module:function, such as mymodels.small:make")
    here = str(Path.cwd())
    added = here not in sys.path and "" not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ValueError(
            f"{name}: the module {module_name} does not import: {type(error).__name__}: {error}"
        ) from error
    finally:
        if added:
            sys.path.remove(here)
    if not hasattr(module, attribute):
        offered = [own for own in vars(module) if own.isidentifier() and not own.startswith("_")]
        raise ValueError(
            f"{name}: the module {module_name} has no {attribute}; it has {', '.join(offered) or 'nothing'}"
        )
    return getattr(module, attribute)
