"""What an argument must be before anything is done with it: numbers, seeds, words, dtypes, devices."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import torch


def kind_of(value: Any) -> str:
    """What a value is, as a message names it: its type with the package that it comes from."""
    kind = type(value)
    return "None" if value is None else kind.__name__ if kind.__module__ == "builtins" else _full_name(kind)


def _full_name(kind: type) -> str:
    return f"{kind.__module__.partition('.')[0]}'s {kind.__name__}"


def shown(value: Any) -> str:
    """A value with its kind, cut to a line: `str '10'`."""
    text = repr(value)
    return f"{kind_of(value)} {text if len(text) <= 40 else text[:37] + '...'}".replace("None None", "None")


def named(value: object) -> str:
    """What a function, or an object by its class, is called."""
    return getattr(value, "__name__", None) or type(value).__name__


def check_whole(**named: Any) -> None:
    """Refuses what is no whole number; what counts nothing is left to who asks.

    Args:
        **named: Values by the names of their arguments.

    Raises:
        TypeError: If one is a bool, a real number, a string or anything else.
    """
    for name, value in named.items():
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise TypeError(f"{name} must be a whole number, got {shown(value)}; give an int")


def check_number(**named: Any) -> None:
    """Refuses what is no real number; NaN and infinity pass.

    Args:
        **named: Values by the names of their arguments.

    Raises:
        TypeError: If one is a bool, a string or anything else.
    """
    for name, value in named.items():
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"{name} must be a number, got {shown(value)}; give a float")


def check_real(**named: Any) -> None:
    """Refuses what is no finite real number.

    Args:
        **named: Values by the names of their arguments.

    Raises:
        TypeError: As `check_number`.
        ValueError: If one is NaN or infinite.
    """
    check_number(**named)
    for name, value in named.items():
        if not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number, got {value}")


def check_at_least(least: float, **named: Any) -> None:
    """Refuses what is no finite number of at least so much.

    Args:
        least: The smallest that may come.
        **named: Values by the names of their arguments.

    Raises:
        TypeError: As `check_real`.
        ValueError: As `check_real`, or if one is smaller.
    """
    check_real(**named)
    for name, value in named.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least:g}, got {value}")


def check_positive(**named: Any) -> None:
    """Refuses what is no finite number above 0.

    Args:
        **named: Values by the names of their arguments.

    Raises:
        TypeError: As `check_real`.
        ValueError: As `check_real`, or if one is not positive.
    """
    check_real(**named)
    for name, value in named.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")


def check_count(least: int = 1, **named: Any) -> None:
    """Refuses what is no whole number of at least so much.

    Args:
        least: The smallest that may come.
        **named: Values by the names of their arguments.

    Raises:
        TypeError: As `check_whole`.
        ValueError: If one is smaller.
    """
    check_whole(**named)
    for name, value in named.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def check_function(what: str, value: Any, instead: str) -> None:
    """Refuses what cannot be called, and a class where an object of it is needed.

    Args:
        what: What it is, as the message begins.
        value: What came.
        instead: What to pass, as the message ends.

    Raises:
        TypeError: If it is neither a function nor an object that can be called.
    """
    if isinstance(value, type):
        raise TypeError(f"{what} must be an object, got the class {value.__name__} itself; {instead}")
    if not callable(value):
        raise TypeError(f"{what} must be a function, got {shown(value)}; {instead}")


def checked_seed(seed: Any) -> int:
    """A seed, as all generators take it.

    Raises:
        ValueError: If it is not a whole number in 0..2^32 - 1.
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= int(seed) < 2**32:
        raise ValueError(f"a seed is a whole number in 0..{2**32 - 1}, got {seed!r}")
    return int(seed)


def checked_seeds(seeds: Any) -> tuple[int, ...]:
    """One or more different seeds.

    Raises:
        TypeError: If this is no list of them.
        ValueError: If one is no seed, one comes twice, or there is none.
    """
    if isinstance(seeds, str) or not hasattr(seeds, "__iter__"):
        raise TypeError(f"seeds must be a list of whole numbers, got {shown(seeds)}; give [0] for one network")
    found = tuple(checked_seed(seed.item() if isinstance(seed, torch.Tensor) else seed) for seed in seeds)
    if not found or len(set(found)) != len(found):
        raise ValueError(f"seeds must be one or more different whole numbers, got {list(found)}")
    return found


def check_dtype(dtype: Any) -> None:
    """Refuses what is no real floating-point dtype of torch.

    Raises:
        TypeError: If it is another dtype, a string or a type of Python or NumPy.
    """
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype must be a dtype of torch, got {shown(dtype)}; take torch.float32 or torch.float64")
    if not dtype.is_floating_point:
        raise TypeError(f"dtype must be a real floating-point dtype, got {dtype}; take torch.float32 or torch.float64")


def checked_device(device: Any) -> torch.device:
    """A device on which tensors can be made here.

    Raises:
        ValueError: If there is no such device, or it cannot be used on this machine.
    """
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(f"unknown device {device!r}; take 'cpu', or 'cuda' or 'cuda:0' where there is a GPU") from None
    try:
        torch.ones(1, device=found).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ValueError(f"the device {str(found)!r} cannot be used here ({reason}); take 'cpu'") from None
    return found


def checked_move(dtype: Any, device: Any) -> tuple[torch.dtype | None, torch.device | None]:
    """Where tensors are to go: a real dtype and a device that can be used, each None where it stays.

    Raises:
        TypeError: If the dtype is no real floating-point one.
        ValueError: If the device cannot be used.
    """
    if dtype is not None:
        check_dtype(dtype)
    return dtype, None if device is None else checked_device(device)
