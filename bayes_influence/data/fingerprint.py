"""What tells one request from another: a SHA-256 over everything that a stored result depends on.

Numbers count by dtype, shape and bytes; objects by their class and what they hold; functions by their code and by all
that the code takes from outside. What belongs to an installed package counts by its name and that package's version.
"""

from __future__ import annotations

import dis
import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache, partial
from importlib.metadata import packages_distributions, version
from pathlib import Path, PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, MethodDescriptorType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bayes_influence.data.dataset import Dataset
from bayes_influence.data.plain_fingerprint import PlainDigest, is_scalar, order
from bayes_influence.errors import BayesInfluenceError

MODULE_STATE = frozenset(vars(nn.Module()))
"""What every module holds beside what its class gives it."""

IMMUTABLE_TYPE = 1 << 8
"""CPython's flag of classes written in C, whose instances may hold what Python does not see."""

PLAIN = (bool, int, float, str, tuple, Tensor)
"""Attributes of the user's classes that count with the classes."""

OWN = "bayes_influence"


class UnidentifiableError(BayesInfluenceError, ValueError):
    """Something that a result depends on, and that cannot be told from another of its kind."""


def fingerprint(**parts: Any) -> str:
    """SHA-256 over named parts, in hexadecimal digits.

    Equal parts have equal fingerprints in every process, whatever device their tensors are on. Different ones have
    different fingerprints: numbers that differ in a bit or in their dtype, data sets in any of inputs, targets, weights
    and ids (names do not count), objects in their class or in anything they hold, functions in their code, defaults, in
    the values that they close over, and in the globals that they use.

    Args:
        **parts: Tensors, arrays, data sets, modules, functions, dataclasses and other objects of Python, in any nesting
            of tuples, lists, dicts and sets.

    Raises:
        UnidentifiableError: If a part holds an object of a class written in C that is none of these, such as an open
            file, a lock or a generator; the message says where.
    """
    digest = _Digest()
    for name in sorted(parts):
        digest.add(name, name)
        digest.add(parts[name], name)
    return digest.hexdigest()


class Structure:
    """A network without its parameters' numbers: its layers, their attributes, hooks and buffers.

    For parameters that are fingerprinted by themselves, as those of an objective or of a stack of members.

    Args:
        network: The network.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network


class _Digest(PlainDigest):
    """A hash that anything is added to."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[int, int] = {}
        self._held: list[Any] = []
        self._open: list[int] = []

    def add(self, value: Any, where: str) -> None:
        """Adds anything; `where` is what a message calls it."""
        if isinstance(value, Tensor):
            self._tensor(value)
        elif isinstance(value, np.ndarray | np.generic):
            self._array(np.asarray(value), where)
        elif is_scalar(value):
            self._scalar(value)
        elif type(value) in (bytes, bytearray):
            self._write(type(value).__name__, bytes(value))
        elif isinstance(value, torch.dtype | torch.device | torch.layout | PurePath):
            self._text(type(value).__name__, value)
        elif isinstance(value, Enum):
            self._text("enum", type(value).__module__, type(value).__qualname__, value.name)
        elif isinstance(value, ModuleType):
            self._text("module", value.__name__, _installed(value.__name__) or _source(value))
        elif isinstance(value, type):
            self._once(value, partial(self._class, value), where)
        elif isinstance(value, FunctionType | BuiltinFunctionType | MethodDescriptorType | np.ufunc):
            self._once(value, partial(self._function, value), where)
        elif isinstance(value, CodeType):
            self._code(value, where)
        else:
            self._container(value, where)

    def _container(self, value: Any, where: str) -> None:
        """What holds other things, itself perhaps among them."""
        if id(value) in self._open:
            self._text("itself", self._open[::-1].index(id(value)))
            return
        self._open.append(id(value))
        try:
            for name, part in self._parts(value, where):
                self.add(part, f"{where}{name}")
        finally:
            self._open.pop()

    def _parts(self, value: Any, where: str) -> Iterator[tuple[str, Any]]:
        """The parts of a container, each with what a message adds to the container's name."""
        if isinstance(value, tuple | list):
            yield from self._sequence(value)
        elif isinstance(value, Mapping) and type(value).__module__ in ("builtins", "collections", "types"):
            yield from self._mapping(value)
        elif isinstance(value, AbstractSet) and type(value).__module__ == "builtins":
            self._text("set", type(value).__qualname__, len(value))
            yield from (("{}", part) for part in sorted(value, key=order))
        elif isinstance(value, partial):
            self._text("partial")
            yield from ((".func", value.func), (".args", value.args), (".keywords", value.keywords))
        elif isinstance(value, MethodType):
            self._text("method")
            yield from ((".__func__", value.__func__), (".__self__", value.__self__))
        elif isinstance(value, Dataset):
            self._text("dataset")
            yield from ((f".{name}", part) for name, part in value.identity().items())
        elif isinstance(value, Structure):
            self._text("structure")
            yield from _of_module(value.network, with_numbers=False)
        elif isinstance(value, nn.Module):
            yield from _of_module(value, with_numbers=True)
        elif type(value) is type(_installed):
            self._text("cached")
            yield ".__wrapped__", value.__wrapped__
        elif isinstance(value, staticmethod | classmethod | property):
            self._text(type(value).__name__)
            yield from ((f".{name}", getattr(value, name, None)) for name in ("__func__", "fget"))
        else:
            yield from self._of_object(value, where)

    def _of_object(self, value: Any, where: str) -> Iterator[tuple[str, Any]]:
        """An instance of a class: the class, and every attribute of the instance."""
        kind = type(value)
        if is_dataclass(value):
            names = [field.name for field in fields(value)]
        elif hasattr(value, "__dict__") and not any(base.__flags__ & IMMUTABLE_TYPE for base in kind.__mro__[:-1]):
            slots = {slot for base in kind.__mro__ for slot in vars(base).get("__slots__", ())}
            names = sorted({*vars(value), *(slot for slot in slots if hasattr(value, slot))})
        else:
            raise UnidentifiableError(
                f"{where} is a {kind.__module__}.{kind.__qualname__}, of which nobody can say whether it is the same "
                "another time; use a function, a dataclass, or an object that holds numbers and tensors only"
            )
        self._text("object", len(names))
        yield ".__class__", kind
        for name in names:
            yield f".{name}", (name, getattr(value, name))

    def _once(self, value: Any, describe: Callable[[str], None], where: str) -> None:
        """Describes a function or class where it comes first, and refers to it afterwards."""
        if id(value) in self._known:
            self._text("known", self._known[id(value)])
            return
        self._known[id(value)] = len(self._known)
        self._held.append(value)
        describe(where)

    def _tensor(self, value: Tensor) -> None:
        plain = value.detach().resolve_conj().resolve_neg().to_dense().cpu().contiguous()
        self._text("tensor", plain.dtype, tuple(plain.shape))
        self._write("numbers", plain.reshape(-1).view(torch.uint8).numpy().data)

    def _array(self, value: np.ndarray, where: str) -> None:
        if value.dtype.hasobject:
            raise UnidentifiableError(f"{where} is an array of objects; make it one of numbers")
        self._text("array", value.dtype.str, value.shape)
        self._write("numbers", value.tobytes())

    def _function(self, value: Any, where: str) -> None:
        module = getattr(value, "__module__", None) or ""
        self._text("function", module, getattr(value, "__qualname__", value.__name__), _installed(module) or "")
        if not isinstance(value, FunctionType):
            return
        for cell, name in zip(value.__closure__ or (), value.__code__.co_freevars, strict=True):
            self.add(_contents(cell), f"{where}, its {name}")
        if _installed(module):
            return
        self.add([value.__defaults__, value.__kwdefaults__], where)
        self._code(value.__code__, where)
        for name in sorted(_globals_of(value.__code__)):
            if name in value.__globals__:
                self._text("global", name)
                self.add(value.__globals__[name], f"{where}, its {name}")

    def _code(self, code: CodeType, where: str) -> None:
        self._write("code", code.co_code)
        self._text("names", code.co_names, code.co_varnames, code.co_freevars, code.co_argcount)
        for constant in code.co_consts:
            self.add(constant, where)

    def _class(self, kind: type, where: str) -> None:
        self._text("class", kind.__module__, kind.__qualname__, _installed(kind.__module__) or "")
        if _installed(kind.__module__):
            return
        for base in kind.__bases__:
            self.add(base, where)
        for name, value in sorted(vars(kind).items()):
            plain = not name.startswith("__") and isinstance(value, PLAIN)
            if plain or isinstance(value, FunctionType | staticmethod | classmethod | property):
                self.add((name, value), f"{where}.{name}")


def _contents(cell: Any) -> Any:
    """What a closure's cell holds; nothing yet, for a function that is defined further down."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _of_module(network: nn.Module, *, with_numbers: bool) -> Iterator[tuple[str, Any]]:
    """Class, attributes, hooks, parameters and buffers of every module in a network."""
    for path, module in network.named_modules(remove_duplicate=False):
        own = vars(module)
        private = _installed(type(module).__module__) is not None and type(module).__module__.partition(".")[0] != OWN
        yield f".{path}", (path, type(module), module.training)
        for name in sorted(own):
            hooks = name in MODULE_STATE and name.endswith("hooks") and own[name]
            if hooks:
                yield f".{path}.{name}", (name, list(own[name].values()))
            elif name not in MODULE_STATE and not (private and name.startswith("_")):
                yield f".{path}.{name}", (name, own[name])
    for name, value in network.named_parameters(remove_duplicate=False):
        yield f".{name}", (name, value if with_numbers else (str(value.dtype), tuple(value.shape)))
    yield from ((f".{name}", (name, value)) for name, value in network.named_buffers(remove_duplicate=False))


def _source(module: ModuleType) -> str:
    """The text of one of the user's own modules."""
    origin = getattr(module, "__file__", None)
    return "" if origin is None else hashlib.sha256(Path(origin).read_bytes()).hexdigest()


def _globals_of(code: CodeType) -> set[str]:
    """Names that a function's code, and the functions within it, look up outside."""
    names = {str(step.argval) for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
    return names.union(*(_globals_of(part) for part in code.co_consts if isinstance(part, CodeType)))


@cache
def _installed(module: str) -> str | None:
    """Package and version that a module belongs to; None where it is the user's own and its code has to be read."""
    top = module.partition(".")[0]
    if top == "__main__":
        return None
    if top in sys.stdlib_module_names or top in ("", "builtins"):
        return "python"
    if top == OWN:
        return f"{OWN} {version('bayes-influence')}"
    origin = getattr(sys.modules.get(top), "__file__", None)
    if origin is None or not {"site-packages", "dist-packages"} & set(Path(origin).parts):
        return None
    return _distribution(top)


@cache
def _distribution(top: str) -> str | None:
    """The distribution that a top-level module comes from, with its version; None where none says that it does."""
    return ", ".join(f"{name} {version(name)}" for name in sorted(set(packages_distributions().get(top, [])))) or None
