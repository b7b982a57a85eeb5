"""Whether a network reaches its parameters by their registered names alone, and what it keeps between two calls.

A network is called functionally: other numbers take the place of its parameters under the names that they are
registered by. What holds one in another way (a list, a second attribute, a view, a hook or closure that has the module)
goes on with the numbers from before, without a derivative. No single batch's numbers need show it, so it is looked at
where it happens: in the arguments of the operations of a forward pass.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bayes_influence.data.fingerprint import MODULE_STATE


def unregistered_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Tensors that a module holds as plain attributes, or in lists and dictionaries there, and where.

    Args:
        module: Looked at without its submodules.
    """
    for name, value in vars(module).items():
        if name not in MODULE_STATE:
            yield from _tensors_in(value, name)


def aliases(network: nn.Module) -> dict[int, tuple[Tensor, str]]:
    """Unregistered tensors that are views of the memory of a registered one, with its name, by their identity."""
    named = {
        name: value for name, value in [*network.named_parameters(), *network.named_buffers()] if _has_memory(value)
    }
    registered = {id(value) for value in named.values()}
    found: dict[int, tuple[Tensor, str]] = {}
    for module in network.modules():
        for _, value in unregistered_tensors(module):
            if id(value) not in registered and _has_memory(value):
                names = [name for name, own in named.items() if _within(value, own)]
                found |= {id(value): (value, name) for name in names[:1]}
    return found


def as_view_of(value: Tensor, own: Tensor, other: Tensor) -> Tensor:
    """What a view of one tensor's memory is of another's that takes its place; a copy where that is laid out otherwise.

    Args:
        value: The view.
        own: Whose memory it is of.
        other: Of the same shape.
    """
    if own.stride() != other.stride() or value.dtype != own.dtype:
        return value.detach().clone()
    start = other.storage_offset() + value.storage_offset() - own.storage_offset()
    return other.detach().as_strided(value.shape, value.stride(), start)


class ByNameAlone(TorchFunctionMode):
    """Watches forward passes in which every parameter comes from outside, as `torch.func.functional_call` makes them.

    Within it, the network's own parameters must not be among the arguments of an operation, nor those of a network that
    it was copied from, and what came from outside must not be written into. Costs some microseconds per operation.

    Args:
        network: What is called.
        params: The numbers that take its parameters' place, none of them an `nn.Parameter`.

    Raises:
        ValueError: Where a parameter is reached in another way than by its name, is not registered at all, or is
            written into.
    """

    def __init__(self, network: nn.Module, params: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.params = params
        self.names = {id(value): name for name, value in network.named_parameters()}
        self.aliases = aliases(network)

    def __enter__(self) -> ByNameAlone:
        self.versions = [_version(value) for value in self.params.values()]
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        now = [_version(value) for value in self.params.values()]
        written = [name for name, old, new in zip(self.params, self.versions, now, strict=True) if old != new]
        if written and raised[0] is None:
            raise ValueError(
                f"the network writes into its parameter {written[0]!r} in its forward pass, as an embedding with "
                f"max_norm does, and has no derivative then: bound it between training steps instead, or write into a "
                f"copy"
            )

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for value in (*args, *kwargs.values()) if kwargs else args:
            if isinstance(value, Tensor):
                self._check(value)
            elif isinstance(value, list | tuple):
                for each in value:
                    if isinstance(each, Tensor):
                        self._check(each)
        return func(*args, **(kwargs or {}))

    def _check(self, value: Tensor) -> None:
        if not isinstance(value, nn.Parameter) and id(value) not in self.aliases:
            return
        name = self._name(value)
        if name is not None:
            raise ValueError(
                f"the network uses its parameter {name!r} past the name that it is registered by: a list, a second "
                f"attribute, a view, a hook or a closure holds it, whose numbers stay what they were and have no "
                f"derivative here. Take it where it is used from the module that registers it (self.layer.weight; in "
                f"a hook, from the module that the hook is given)"
            )
        if value.requires_grad:
            raise ValueError(
                f"the network uses a trainable parameter of shape {tuple(value.shape)} that is not registered with it "
                f"and so is no part of the objective. Register it (as an attribute, or in an nn.ModuleList or "
                f"nn.ParameterList), or say that it is a constant, with requires_grad_(False)"
            )

    def _name(self, value: Tensor) -> str | None:
        """The registered name: of this network's own, or of another copy's that has the same numbers."""
        if id(value) in self.names:
            return self.names[id(value)]
        if id(value) in self.aliases:
            return self.aliases[id(value)][1]
        for name, own in self.params.items():
            if own.shape == value.shape and torch.equal(own.to(value), value):
                return name
        return None


class KeptState:
    """What a network holds beside its parameters, as it is now: buffers, plain attributes, lists and dictionaries.

    Args:
        network: Whose attributes.
    """

    def __init__(self, network: nn.Module) -> None:
        self._held = [(path, module, _plain(module), _contents(module)) for path, module in network.named_modules()]
        self._buffers = [
            (f"{path}.{name}".lstrip("."), module, name, buffer, _copied(buffer))
            for path, module in network.named_modules()
            for name, buffer in module._buffers.items()
        ]

    def changed(self) -> list[str]:
        """Paths of the attributes that are others than they were."""
        found = []
        for path, module, plain, contents in self._held:
            now, within = _plain(module), _contents(module)
            names = [name for name in {**plain, **now} if now.get(name, self) is not plain.get(name, self)]
            names += [name for name in contents if name in within and not _same(contents[name], within[name])]
            found += [f"{path}.{name}".lstrip(".") for name in names]
        return found + [
            path
            for path, module, name, buffer, copied in self._buffers
            if module._buffers[name] is not buffer or (copied is not None and _version(buffer) != copied[1])
        ]

    def restore(self) -> None:
        """Puts everything back."""
        for _, module, plain, contents in self._held:
            for name in set(_plain(module)) - set(plain):
                del vars(module)[name]
            vars(module).update(plain)
            for name, held in contents.items():
                _refill(plain[name], held)
        self._buffers = [(*each[:4], _put_back(*each[1:])) for each in self._buffers]


def _put_back(
    module: nn.Module, name: str, buffer: Tensor | None, copied: tuple[Tensor, int] | None
) -> tuple[Tensor, int] | None:
    """A buffer as it was; its numbers, and how often they were written into now."""
    module._buffers[name] = buffer
    if buffer is None or copied is None:
        return None
    if _version(buffer) != copied[1]:
        buffer.copy_(copied[0])
    return copied[0], _version(buffer)


def _copied(buffer: Tensor | None) -> tuple[Tensor, int] | None:
    return None if buffer is None else (buffer.clone(), _version(buffer))


def _version(value: Tensor) -> int:
    """How often a tensor was written into; of one made in inference mode nobody counts."""
    return 0 if value.is_inference() else value._version


def _plain(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name not in MODULE_STATE}


def _contents(module: nn.Module) -> dict[str, Any]:
    return {name: copy.copy(value) for name, value in _plain(module).items() if type(value) in (list, dict, set)}


def _same(one: Any, other: Any) -> bool:
    """Whether two containers hold the very same objects."""
    if type(one) is not type(other) or len(one) != len(other):
        return False
    if isinstance(one, dict):
        return all(name in other and value is other[name] for name, value in one.items())
    if isinstance(one, set):
        return {id(value) for value in one} == {id(value) for value in other}
    return all(value is twin for value, twin in zip(one, other, strict=True))


def _refill(container: Any, held: Any) -> None:
    if _same(container, held):
        return
    container.clear()
    if isinstance(container, list):
        container.extend(held)
    else:
        container.update(held)


def _tensors_in(value: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _tensors_in(each, f"{path}[{key!r}]")
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes | range):
        for index, each in enumerate(value):
            yield from _tensors_in(each, f"{path}[{index}]")


def _has_memory(value: Tensor) -> bool:
    if value.layout is not torch.strided or value.numel() == 0:
        return False
    try:
        value.untyped_storage()
    except (NotImplementedError, RuntimeError):  # what a finished transformation has left behind
        return False
    return True


def _within(value: Tensor, own: Tensor) -> bool:
    """Whether a tensor begins in the memory of another one."""
    if value.device != own.device or value.untyped_storage().data_ptr() != own.untyped_storage().data_ptr():
        return False
    length = 1 + sum(stride * (size - 1) for stride, size in zip(own.stride(), own.shape, strict=True))
    return 0 <= value.storage_offset() - own.storage_offset() < length
