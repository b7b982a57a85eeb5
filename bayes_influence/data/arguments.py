"""`Arguments`: inputs of a network that takes several arguments, or arguments by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bayes_influence.torch_internals import register_pytree_node


class Arguments:
    """Inputs that a network is called with as `network(*args, **kwargs)`, instead of as one argument.

    A pytree whose leaves are the tensors in it, each with the examples along its first axis. Arguments that are None
    are left out.

    Args:
        *args: By position.
        **kwargs: By name, such as a Transformer's `input_ids` and `attention_mask`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args = args
        self.kwargs = {name: value for name, value in kwargs.items() if value is not None}

    def __repr__(self) -> str:
        named = [*(repr(value) for value in self.args), *(f"{name}={value!r}" for name, value in self.kwargs.items())]
        return f"Arguments({', '.join(named)})"


def _flatten(inputs: Arguments) -> tuple[list[Any], tuple[int, tuple[str, ...]]]:
    return [*inputs.args, *inputs.kwargs.values()], (len(inputs.args), tuple(inputs.kwargs))


def _unflatten(parts: Iterable[Any], context: tuple[int, tuple[str, ...]]) -> Arguments:
    # Transformations put placeholders where the tensors were, None among them, and none may be left out.
    count, names = context
    values = list(parts)
    inputs = object.__new__(Arguments)
    inputs.args, inputs.kwargs = tuple(values[:count]), dict(zip(names, values[count:], strict=True))
    return inputs


register_pytree_node(
    Arguments, _flatten, _unflatten, serialized_type_name=f"{Arguments.__module__}.{Arguments.__qualname__}"
)


def as_call(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments by position and by name that a network is called with, for any inputs: what `functional_call` takes."""
    return (inputs.args, inputs.kwargs) if isinstance(inputs, Arguments) else ((inputs,), {})
