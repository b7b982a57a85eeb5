"""From the options of a command to the settings of a study: one way for all commands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import typer
from rich.console import Console
from rich.measure import Measurement
from typer.core import TyperCommand

console = Console()
errors = Console(stderr=True)

Made = TypeVar("Made")

_given: ContextVar[dict[str, str]] = ContextVar("given", default={})  # noqa: B039 - never changed, only replaced


def fields_of(kind: type) -> list[str]:
    """Names of the settings of a kind."""
    return [field.name for field in fields(kind)]


def settings_of(kind: type[Made], given: Mapping[str, Any], **own: Any) -> Made:
    """Settings out of a command's parameters: those of the same names, and those that had to be read first.

    Args:
        kind: A dataclass of settings.
        given: The command's parameters by name; what is no setting, or None, is passed over.
        **own: Settings that are not as the command line has them.

    Raises:
        ValueError: As the settings do.
    """
    said = {name: value for name, value in given.items() if name in fields_of(kind) and value is not None}
    return kind(**said | own)


class GivenOptions(TyperCommand):
    """A command that remembers which of its options were given and which have their defaults."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command."""
        sources = {parameter: ctx.get_parameter_source(parameter.name) for parameter in self.get_params(ctx)}
        _given.set(
            {
                str(parameter.name): parameter.opts[0]
                for parameter, source in sources.items()
                if source is not None and source.name not in ("DEFAULT", "DEFAULT_MAP")
            }
        )
        return super().invoke(ctx)


def refuse_given(names: Iterable[str], why: str) -> None:
    """Refuses options that were given, to a `GivenOptions`, though they do not apply to what was asked.

    Args:
        names: Parameters that do not apply.
        why: The reason, after a colon.

    Raises:
        ValueError: Naming the first such option.
    """
    for name in names:
        if name in _given.get():
            raise ValueError(f"{_given.get()[name]} does not apply here: {why}; leave it out")


def given_or_none(name: str, value: Any) -> Any:
    """The value of an option that was given, to a `GivenOptions`; None for one that has its default."""
    return value if name in _given.get() else None


def refuse_data_folder(dataset: str) -> None:
    """Refuses `--data-folder` for data that lie in no such folder.

    Raises:
        ValueError: Saying where they come from.
    """
    from bayes_influence.data.images import IMAGE_SETS
    from bayes_influence.data.tables import TABLES

    if dataset not in IMAGE_SETS:
        where = "comes with scikit-learn" if dataset in TABLES else "is no image set that is known by name"
        refuse_given(["data_folder"], f"{dataset} {where}")


def folder_of(data_folder: Path | None) -> dict[str, str | None]:
    """The folder of image sets, as settings have it."""
    return {"data_folder": None if data_folder is None else str(data_folder)}


def is_study(name: str) -> bool:
    """Whether a name is that of a study's folder, rather than of a data set."""
    from bayes_influence.experiments.store.record import CONFIG

    return (Path(name) / CONFIG).is_file()


def data_of_run(folder: Path) -> str:
    """The name of the data set that a stored run or study is on; nothing where it names none.

    Raises:
        FileNotFoundError: If the folder holds neither.
    """
    from bayes_influence.experiments.store.record import read_study

    return str(read_study(folder)["config"].get("dataset", ""))


def check_free(target: Path, run: Path, table: Path) -> None:
    """Refuses to write over what predictions are made of.

    Args:
        target: Where they are to be written.
        run: Folder of the run.
        table: The rows that are predicted.

    Raises:
        ValueError: If it is that table, a file of the run, or the table that the run was trained on.
    """
    place, learned = target.resolve(), Path(data_of_run(run) if is_study(str(run)) else "")
    taken = {table.resolve(): "the table that is predicted"}
    if learned.suffix:
        taken[learned.resolve()] = "the table that the run was trained on"
    if place in taken or place.is_relative_to(run.resolve()):
        what = taken.get(place, f"in the folder of the run, {run}")
        raise ValueError(f"{target} is {what}; name another file with --out")


def split_words(text: str) -> tuple[str, ...]:
    """Words separated by commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def columns_of(target: Sequence[str] | None, categorical: Sequence[str] | None) -> dict[str, tuple[str, ...]]:
    """The columns of a table that are said, as settings have them."""
    return {"target": tuple(target or ()), "categorical": tuple(categorical or ())}


def whole_numbers(text: str, name: str) -> tuple[int, ...]:
    """Whole numbers separated by commas.

    Args:
        text: What was given.
        name: Of the option.

    Raises:
        ValueError: If a word is no whole number.
    """
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise ValueError(f"{name} must be whole numbers separated by commas, got {text!r}") from None


class clear_errors:  # noqa: N801 - used like a function
    """Prints what was expected, what came and what to do, without a traceback, and leaves with status 2 (130)."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, KeyboardInterrupt):
            errors.print(str(error) or "interrupted", style="yellow", highlight=False, markup=False)
            raise typer.Exit(130) from None
        if isinstance(error, ValueError | TypeError | OSError | RuntimeError | MemoryError):
            errors.print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
            raise typer.Exit(2) from None


def say(text: str) -> None:
    """Prints a text as it is: in whole lines, so that a path can be copied, and nothing in it is markup."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def print_wide(table: Any) -> None:
    """Prints a table at its own width where the terminal is narrower or no terminal at all."""
    needed = Measurement.get(console, console.options.update(max_width=1000), table).maximum
    Console(width=max(needed, console.width)).print(table)
