"""Numbers of schemes as options: a command of schemes has one option for every number or word that a scheme has."""

from __future__ import annotations

import inspect
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import typer
from typer.main import get_command

from bayes_influence.cli.options import GivenOptions

if TYPE_CHECKING:
    from bayes_influence.training.scheme import Scheme

_said: ContextVar[dict[str, Any]] = ContextVar("said", default={})  # noqa: B039 - never changed, only replaced


class SchemeCommand(GivenOptions):
    """A command that takes the numbers of its scheme, or schemes, beside its own options."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The command's own parameters, the schemes', and help."""
        *own, last = super().get_params(ctx)
        return [*own, *self._of_schemes(), last]

    def invoke(self, ctx: Any) -> Any:
        """Runs the command, which asks `said_scheme_options` for what was said about its schemes."""
        names = [str(parameter.name) for parameter in self._of_schemes()]
        said = {name: ctx.params.pop(name) for name in names}
        _said.set({name: value for name, value in said.items() if value is not None})
        return super().invoke(ctx)

    def _of_schemes(self) -> list[Any]:
        """The schemes' parameters; a name that the command has itself is the command's."""
        from bayes_influence.training.schemes import SCHEMES

        own = {parameter.name for parameter in self.params}
        return [parameter for parameter in _scheme_parameters(tuple(SCHEMES.values())) if parameter.name not in own]


def said_scheme_options() -> dict[str, Any]:
    """The numbers and words of schemes that a `SchemeCommand` was given, by field."""
    return _said.get()


@cache
def _scheme_parameters(schemes: tuple[Scheme, ...]) -> list[Any]:
    """One parameter per field of the schemes that can be said as a number or a word, unsaid by default."""

    def unused() -> None:
        """Only its parameters are taken."""

    options = {
        name: inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[kind | None, typer.Option(help=text, rich_help_panel="Numbers of schemes")],
        )
        for name, (kind, text) in _sayable(schemes).items()
    }
    unused.__annotations__ = {name: option.annotation for name, option in options.items()}
    unused.__signature__ = inspect.Signature(list(options.values()))  # type: ignore[attr-defined]
    single = typer.Typer(add_completion=False)
    single.command()(unused)
    return get_command(single).params


def _sayable(schemes: tuple[Scheme, ...]) -> dict[str, tuple[type, str]]:
    """Kind and description of those fields; what an annotation allows as a word is said as a word."""
    from bayes_influence.experiments.store.settings import attributes_of
    from bayes_influence.training.scheme import alternatives, field_kinds

    found: dict[str, tuple[type, str]] = {}
    for scheme in schemes:
        texts = attributes_of(type(scheme))
        for name, annotation in field_kinds(type(scheme)).items():
            parts = alternatives(annotation)
            words = [word for part in parts if get_origin(part) is Literal for word in get_args(part)]
            kind = float if float in parts else int if int in parts else str if words or str in parts else None
            if name in scheme.options and name not in found and kind is not None:
                found[name] = (kind, texts.get(name, ""))
    return found
