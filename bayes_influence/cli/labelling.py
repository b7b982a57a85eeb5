"""The commands about wrong labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bayes_influence.cli.options import (
    clear_errors,
    columns_of,
    folder_of,
    print_wide,
    refuse_data_folder,
    say,
    settings_of,
    whole_numbers,
)
from bayes_influence.cli.parameters import (
    OWN,
    Activation,
    BatchSize,
    Categorical,
    DataFolder,
    Depth,
    Device,
    LearningRate,
    Missing,
    Separator,
    Target,
    Task,
    Width,
)


def find_mislabelled(
    dataset: Annotated[str, typer.Argument(help=f"A data set by name, digits say (a wrong one lists them), {OWN}.")],
    target: Target = None,
    task: Task = None,
    categorical: Categorical = None,
    missing: Missing = "refuse",
    separator: Separator = ",",
    level: Annotated[float, typer.Option(help="Expected share of right labels among the flagged ones, at most.")] = 0.1,
    folds: Annotated[int, typer.Option(help="Parts, each predicted by networks trained on the others.")] = 5,
    seeds: Annotated[str, typer.Option(help="Networks per part, separated by commas.")] = "0,1,2",
    listed: Annotated[int, typer.Option(help="Most suspicious rows that are listed with evidence.")] = 100,
    evidence: Annotated[int, typer.Option(help="Training rows that argue for a label, and against it.")] = 3,
    network: Annotated[
        str | None,
        typer.Option(
            help="mlp, lenet, resnet, vgg11 to vgg19, module:Class, or own; on images of 28 x 28 or 32 x 32 pixels "
            "lenet when not given, else mlp."
        ),
    ] = None,
    depth: Depth = None,
    width: Width = None,
    activation: Activation = None,
    scheme: Annotated[
        str | None, typer.Option(help="How networks are regularised; weight decay of the best strength otherwise.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Steps on all rows at once, 200; or passes over the data.")] = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    device: Device = "cpu",
    data_folder: DataFolder = None,
    out: Annotated[Path | None, typer.Option(help="Result folder; runs/labels-DATASET when not given.")] = None,
) -> None:
    """Find the labels that are likely to be wrong, with an error rate, a proposal and the rows that speak for both."""
    given = dict(locals())
    from bayes_influence.experiments.attribution.labels.of_data import find_in_data
    from bayes_influence.experiments.attribution.labels.result import printed_issues
    from bayes_influence.experiments.attribution.labels.settings import LabelData, LabelSettings

    with clear_errors():
        refuse_data_folder(dataset)
        settings = settings_of(LabelSettings, given, seeds=whole_numbers(seeds, "seeds"))
        own: dict[str, Any] = columns_of(target, categorical) | folder_of(data_folder)
        data = settings_of(LabelData, given, **own)
        found = find_in_data(data, out or Path("runs") / f"labels-{data.data_name}", settings)
    print_wide(printed_issues(found.issues))
    say(f"{found.issues.sentence}.")
    say(f"To go through them: {found.folder / 'labels.html'}")
    say(f"All rows and configuration: {found.folder}")


def apply(
    marks: Annotated[Path, typer.Argument(help="A file of marks, exported from the page or written by a script.")],
    run: Annotated[
        Path | None, typer.Option(help="Folder of the search; the one in runs that is of the same data otherwise.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Result folder; RUN-cleaned when not given.")] = None,
) -> None:
    """Apply marks: write the cleaned data, and compare networks that are trained before and after."""
    from bayes_influence.data.files import named
    from bayes_influence.experiments.attribution.labels.marks import apply_marks, read_marks, run_of_marks

    with clear_errors():
        found = read_marks(marks)
        searched = named(run_of_marks(found) if run is None else run)
        done = apply_marks(found, searched, out or searched.with_name(f"{searched.name}-cleaned"))
    say(done.comparison.to_string(index=False, float_format="{:.4f}".format))
    say(f"{done.sentence}.")
    kind = (
        " (a folder of images by class, to search or to train on like the one before)" if done.cleaned.is_dir() else ""
    )
    say(f"Cleaned data: {done.cleaned}{kind}")
