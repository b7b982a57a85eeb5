"""The commands that predict with a finished run, and explain its predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bayes_influence.cli.options import (
    check_free,
    clear_errors,
    data_of_run,
    given_or_none,
    print_wide,
    refuse_data_folder,
    say,
    settings_of,
)
from bayes_influence.cli.parameters import DataFolder, Device

SHOWN = 20
"""Predictions that are printed; the file has all."""


def why(
    run: Annotated[Path, typer.Argument(help="Folder of a finished training run of classes or of numbers.")],
    test: Annotated[list[int] | None, typer.Option(help="Test example, counted from 0; repeatable.")] = None,
    test_id: Annotated[list[int] | None, typer.Option(help="Test example by its id; repeatable.")] = None,
    top: Annotated[int, typer.Option(help="Rows named of each kind; the first of a prediction are removed.")] = 5,
    removals: Annotated[int, typer.Option(help="Rows without which estimates are held against retraining.")] = 8,
    damping: Annotated[float | None, typer.Option(help="Of the estimate; see `explain_run`.")] = None,
    index: Annotated[int, typer.Option(help="Which of the run's seeds, counted from 0.")] = 0,
    device: Device = "cpu",
    data_folder: DataFolder = None,
    out: Annotated[Path | None, typer.Option(help="Result folder; RUN-why-TEST when not given.")] = None,
) -> None:
    """Say why a run predicts what it predicts: rows for and against, how sure it is, and what changes without them."""
    given = dict(locals())
    from bayes_influence.data.files import named
    from bayes_influence.experiments.attribution.of_run import InfluenceRequest
    from bayes_influence.experiments.attribution.why.explanation import printed_explanation, removal_sentences
    from bayes_influence.experiments.attribution.why.of_run import explain_run

    tests, test_ids = tuple(test or ()), tuple(test_id or ())
    run = named(run)
    answer = "-".join([run.name, "why", *map(str, tests), *(f"id{identity}" for identity in test_ids)])
    with clear_errors():
        refuse_data_folder(data_of_run(run))
        request = settings_of(InfluenceRequest, given, tests=tests, test_ids=test_ids)
        where: dict[str, Any] = {"data_folder": data_folder, "device": given_or_none("device", device)}
        found = explain_run(run, out or run.with_name(answer), request, removals=removals, **where)
    for table in printed_explanation(found):
        print_wide(table)
    for note in found.notes:
        say(f"Note: {note}.")
    for sentence in removal_sentences(found):
        say(f"{sentence}.")
    say(found.verdict)
    drawn = "Tables, pictures" if found.pictures else "Tables"
    say(f"{drawn} and configuration: {found.folder}")


def predict(
    run: Annotated[Path, typer.Argument(help="Folder of a finished training run on a table in a file; not on images.")],
    table: Annotated[Path, typer.Argument(help="CSV or Parquet file with the same input columns.")],
    index: Annotated[int, typer.Option(help="Which of the run's seeds, counted from 0.")] = 0,
    device: Device = "cpu",
    out: Annotated[Path | None, typer.Option(help="CSV file; TABLE-predicted.csv beside it when not given.")] = None,
) -> None:
    """Predict new rows of a table: classes and their probabilities, or real numbers with 95 % intervals."""
    from bayes_influence.data.files import guarded, write_whole
    from bayes_influence.experiments.attribution.predictions import predict_rows

    target = out or table.with_name(f"{table.stem}-predicted.csv")
    with clear_errors():
        check_free(target, run, table)
        found = predict_rows(run, table, index=index, device=given_or_none("device", device))
        write_whole(target, guarded(found).to_csv(index=False).encode())
    say(found.head(SHOWN).to_string(index=False))
    say(f"{len(found)} predictions: {target}")
