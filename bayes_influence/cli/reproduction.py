"""The command `reproduce`: one subcommand per registered study, whose options are the study's own settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperGroup
from typer.main import get_command

from bayes_influence.cli.options import clear_errors, say, split_words
from bayes_influence.cli.scheme_options import SchemeCommand, said_scheme_options

if TYPE_CHECKING:
    from bayes_influence.experiments.papers.study import PaperStudy


SCHEME_OPTIONS = "scheme_options"
"""The setting of studies that compare schemes; it is said by one option per number of a scheme."""


class StudyCommands(TyperGroup):
    """Commands made of the registry when one is asked for, so that other commands start without it."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of all studies."""
        from bayes_influence.experiments.papers.registry import paper_studies

        return list(paper_studies())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of one study, None where there is no such study; one that is nearly called so is named."""
        from bayes_influence.experiments.papers.registry import paper_studies

        studies = paper_studies()
        study = studies.get(cmd_name)
        if study is None:
            if near := get_close_matches(cmd_name, studies):
                ctx.fail(f"No such command {cmd_name!r}. Did you mean {', '.join(map(repr, near))}?")
            return None
        single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        kind = SchemeCommand if SCHEME_OPTIONS in study.options else None
        single.command(study.name, help=study.shows, cls=kind)(study_command(study))
        return get_command(single)


def study_command(study: PaperStudy) -> Callable[..., None]:
    """A function that typer makes a command of: its parameters are the study's options, a folder and the jobs."""
    kinds, described = get_type_hints(type(study.settings)), study.settings.descriptions()
    parameters = {
        name: (_option_type(kinds[name]), described[name], _as_option(default))
        for name, default in study.options.items()
        if name != SCHEME_OPTIONS
    }
    parameters["out"] = (Path, "Result folder; studies that share cells share it.", Path(study.folder))
    parameters["jobs"] = (int | None, "Cells at once; as many as there are cores, when not given.", None)
    parameters["backend"] = (str | None, "Of joblib, for the cells: loky, dask, ray, ...", None)

    def command(**given: Any) -> None:
        from bayes_influence.experiments.papers.registry import reproduce

        out, jobs, backend = (given.pop(name) for name in ("out", "jobs", "backend"))
        with clear_errors():
            options = {name: _as_setting(name, value, study.options[name]) for name, value in given.items()}
            if SCHEME_OPTIONS in study.options:
                options[SCHEME_OPTIONS] = said_scheme_options()
            found = reproduce(study.name, options, out, n_jobs=jobs, backend=backend)
        say(found.table.to_string(index=False))
        for sentence in found.findings:
            say(sentence)
        for figure in found.figures:
            say(f"Figure: {figure}")
        say(f"Tables and configuration: {found.folder}")

    least = {"jobs": 1}
    command.__annotations__ = {
        name: Annotated[kind, typer.Option(help=text, min=least.get(name))]
        for name, (kind, text, _) in parameters.items()
    }
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
            for (name, (_, _, default)), kind in zip(parameters.items(), command.__annotations__.values(), strict=True)
        ]
    )
    return command


def _option_type(kind: Any) -> Any:
    """The type of the option for a field: words separated by commas for a tuple, and else its own."""
    if get_origin(kind) in (Union, UnionType):
        return _option_type(next(one for one in get_args(kind) if one is not type(None))) | None
    return str if get_origin(kind) is tuple else kind


def _as_option(value: Any) -> Any:
    return ",".join(map(str, value)) if isinstance(value, tuple) else value


def _as_setting(name: str, value: Any, default: Any) -> Any:
    """What was said, as a setting like its default: of a tuple words, or numbers, separated by commas."""
    if not isinstance(default, tuple):
        return value
    words = split_words(value)
    if not any(isinstance(one, float) for one in default):
        return words
    try:
        return tuple(map(float, words))
    except ValueError:
        raise ValueError(f"{name} takes numbers separated by commas, got {value!r}") from None
