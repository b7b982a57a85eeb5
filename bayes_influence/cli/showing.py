"""The commands about what is stored: what it is, its figures, and parts of it put together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from bayes_influence.cli.options import clear_errors, console, say, split_words


def info(
    path: Annotated[Path, typer.Argument(help="A folder of a run, study or audit; a file of scores or networks.")],
) -> None:
    """Say what a stored folder or file holds: its kind, its configuration, its version, and what is finished."""
    from bayes_influence.experiments.stored import inspected

    with clear_errors():
        found = inspected(path)
    for name, value in found.lines():
        console.print(f"[bold]{escape(name)}[/bold]: {escape(value)}", highlight=False, soft_wrap=True)


def figure(
    folder: Annotated[Path, typer.Argument(help="Folder of any finished study, run or audit.")],
    name: Annotated[list[str] | None, typer.Option(help="Which figure; repeatable. All when not given.")] = None,
    page: Annotated[
        str | None,
        typer.Option(help="What for: paper (6.75 inches, 8 points, pdf, svg) or talk (12 by 6.75, 14, png, svg)."),
    ] = None,
    width: Annotated[float | None, typer.Option(help="Inches; as it was drawn when not given.")] = None,
    height: Annotated[float | None, typer.Option(help="Inches; in proportion to the width when not given.")] = None,
    font_size: Annotated[float | None, typer.Option(help="Of most letters, in points.")] = None,
    font: Annotated[str | None, typer.Option(help="Name of a font that is installed.")] = None,
    kinds: Annotated[str | None, typer.Option(help="Files to write: png, pdf, svg; separated by commas.")] = None,
    dpi: Annotated[int | None, typer.Option(help="Points per inch of a png.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the files; FOLDER-figures when not given.")] = None,
) -> None:
    """Draw the figures of a stored study again, for a paper or a talk; nothing is measured again."""
    given = {"width": width, "height": height, "font_size": font_size, "font": font, "dpi": dpi}
    from bayes_influence.data.files import named
    from bayes_influence.experiments.store.pages import page_of, redraw

    beside = named(folder)
    with clear_errors():
        chosen = page_of(page, **given, kinds=split_words(kinds) if kinds else None)
        files = redraw(folder, chosen, out or beside.with_name(f"{beside.name}-figures"), name or ())
    for file in files:
        say(f"Figure: {file}")


def merge(
    into: Annotated[Path, typer.Argument(help="Folder that gets the cells: a new one, or one of the same study.")],
    parts: Annotated[list[Path], typer.Argument(help="Folders of the study, from other machines; only read.")],
) -> None:
    """Put the finished cells of one study from several machines into one folder, where the study then goes on."""
    from bayes_influence.experiments.store.merging import merge_studies

    with clear_errors():
        merged = merge_studies(into, parts)
    say(
        f"{len(merged.taken)} cells taken into {into}, {len(merged.there)} were there; it has "
        f"{', '.join(merged.keys)}. The study's command with options that cover all of them, --repeats say, and "
        f"--out {into} goes on with them."
    )
