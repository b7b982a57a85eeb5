"""The commands of `bayes-influence`: parse, dispatch, print."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from bayes_influence.cli.auditing import audit_of_data, audit_of_run
from bayes_influence.cli.explaining import predict, why
from bayes_influence.cli.labelling import apply, find_mislabelled
from bayes_influence.cli.options import (
    GivenOptions,
    clear_errors,
    columns_of,
    data_of_run,
    errors,
    folder_of,
    given_or_none,
    is_study,
    print_wide,
    refuse_data_folder,
    refuse_given,
    say,
    settings_of,
    split_words,
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
    Jobs,
    LearningRate,
    Missing,
    Network,
    Parameters,
    Polish,
    RefitEpochs,
    Removals,
    Repeats,
    Seed,
    Separator,
    StudyEpochs,
    TakenIn,
    Target,
    Task,
    TestExample,
    Width,
)
from bayes_influence.cli.reproduction import StudyCommands
from bayes_influence.cli.said import say_what_is_done
from bayes_influence.cli.scheme_options import SchemeCommand, said_scheme_options
from bayes_influence.cli.showing import figure, info, merge

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Which training examples shaped a prediction, and can that answer be trusted?",
)
app.add_typer(
    typer.Typer(cls=StudyCommands, no_args_is_help=True),
    name="reproduce",
    help="Do a study of a paper again; each has options of its own.",
)

app.command(name="find-mislabelled", cls=GivenOptions)(find_mislabelled)
app.command(cls=GivenOptions)(apply)
app.command(cls=GivenOptions)(predict)
app.command(cls=GivenOptions)(why)
app.command()(info)
app.command()(figure)
app.command()(merge)

IDENTIFYING = ("parameters", "curvature", "solver", "damping", "measurement", "index")
"""Options of `influence` that its own name of a result folder has, so that another answer goes to another folder."""

AUDIT_EPOCHS = 4000
"""Steps of an audit's refits by training, of a finished run and of a table that is known by name."""


def run_program() -> None:
    """The command line as a program: where its output cannot be written, it says so in a sentence."""
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except OSError as error:
        # Nothing more may be written there, not even when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        message = f"error: cannot print ({error.strerror}); what was computed is in its folder"
        errors.print(message, style="red", highlight=False, soft_wrap=True)
        raise SystemExit(1) from None


def _print_version(asked: bool) -> bool:
    if asked:
        say(f"bayes-influence {version('bayes-influence')}")
        raise typer.Exit
    return asked


@app.callback()
def main(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what is done.")] = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """Which training examples shaped a prediction, and can that answer be trusted?"""
    say_what_is_done(verbose=verbose)


@app.command(cls=SchemeCommand)
def compare(
    dataset: Annotated[str, typer.Argument(help=f"A data set by name, iris say (a wrong one lists them), {OWN}.")],
    target: Target = None,
    task: Task = None,
    categorical: Categorical = None,
    missing: Missing = "refuse",
    separator: Separator = ",",
    network: Network = "mlp",
    depth: Depth = None,
    width: Width = None,
    activation: Activation = None,
    repeats: Repeats = 10,
    removals: Removals = 40,
    schemes: Annotated[str | None, typer.Option(help="Schemes by name, separated by commas.")] = None,
    parameters: TakenIn = Parameters.LAST_LAYER,
    epochs: StudyEpochs = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    refit_epochs: RefitEpochs = None,
    seed: Seed = 0,
    test_example: TestExample = None,
    device: Device = "cpu",
    data_folder: DataFolder = None,
    out: Annotated[Path | None, typer.Option(help="Result folder; runs/compare-DATASET when not given.")] = None,
    jobs: Jobs = None,
) -> None:
    """Compare regularisation schemes on influence accuracy and Hessian spectrum."""
    given = dict(locals())
    from bayes_influence.experiments.comparison.regularisers import compare_regularisers
    from bayes_influence.experiments.comparison.study import Study
    from bayes_influence.experiments.comparison.summary import printed_table

    with clear_errors():
        if schemes is not None:
            given["schemes"] = split_words(schemes)
        refuse_data_folder(dataset)
        own: dict[str, Any] = {"parameters": parameters.value, "scheme_options": said_scheme_options()}
        study = settings_of(Study, given, **own, **columns_of(target, categorical), **folder_of(data_folder))
        result = compare_regularisers(study, out or Path("runs") / f"compare-{study.data_name}", n_jobs=jobs)
    title = f"{study.data_name}, {study.title}, influence in {parameters.value} parameters"
    print_wide(printed_table(result.summary, title))
    for finding in result.findings:
        say(finding)
    say(f"Test example {result.test_example}. Tables, figure and configuration: {result.folder}")


@app.command(cls=SchemeCommand)
def train(
    dataset: Annotated[str, typer.Argument(help=f"A data set by name, mnist say (a wrong one lists them), {OWN}.")],
    target: Target = None,
    task: Task = None,
    categorical: Categorical = None,
    missing: Missing = "refuse",
    separator: Separator = ",",
    network: Network = "mlp",
    scheme: Annotated[str, typer.Option(help="How it is regularised; see docs/schemes.md.")] = "bnn",
    seeds: Annotated[str, typer.Option(help="One network each, separated by commas.")] = "0",
    epochs: Annotated[int | None, typer.Option(help="Passes over the data; the data set has its own.")] = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    optimiser: Annotated[str, typer.Option(help="adam or sgd.")] = "adam",
    decay: Annotated[str, typer.Option(help="Of the learning rate: cosine or constant.")] = "cosine",
    annealing: Annotated[float, typer.Option(help="Fraction of the steps over which the KL's weight rises.")] = 0.0,
    clip: Annotated[float | None, typer.Option(help="Longest gradient that is followed at its length.")] = None,
    width: Width = None,
    depth: Depth = None,
    activation: Activation = None,
    warm_start: Annotated[str | None, typer.Option(help="Folder of a run to start from.")] = None,
    train_examples: Annotated[int | None, typer.Option(help="Use only so many training examples.")] = None,
    device: Device = "cpu",
    predictions: Annotated[str, typer.Option(help="diagonal, linearized or sampled.")] = "diagonal",
    data_folder: DataFolder = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/train-DATASET-NETWORK-SCHEME otherwise.")] = None,
) -> None:
    """Train networks, deterministic or Bayesian; stopped, the same command continues. Ends with a report."""
    given = dict(locals())
    from bayes_influence.experiments.training.report import train_and_report
    from bayes_influence.experiments.training.settings import TrainRun

    with clear_errors():
        own: dict[str, Any] = {"seeds": whole_numbers(seeds, "seeds"), "scheme_options": said_scheme_options()}
        run = settings_of(TrainRun, given, **own, **columns_of(target, categorical))
        refuse_data_folder(dataset)
        if run.known().task != "classification":
            refuse_given(["predictions"], f"{dataset} is no classification, which alone is predicted in several ways")
        if not run.resolved_scheme().bayesian:
            refuse_given(["predictions"], f"{scheme} has no Bayesian network, which alone predicts in several ways")
        folder = out or Path("runs") / f"train-{run.data_name}-{network.replace(':', '-')}-{scheme}"
        report = train_and_report(run, folder, data_folder=data_folder, mode=predictions)
    # What moments neglect was logged already, in a sentence each.
    shown = report.drop(columns="neglect", errors="ignore").dropna(axis="columns", how="all")
    text = shown.to_string(index=False, float_format="{:.4f}".format)
    say(text)
    plot = "reliability plot, " if run.known().task == "classification" else ""
    say(f"Report, {plot}checkpoint and configuration: {folder}")


@app.command(cls=SchemeCommand)
def audit(
    dataset: Annotated[
        str, typer.Argument(help=f"The folder of a finished run; or a data set by name, iris say, {OWN}.")
    ],
    target: Target = None,
    task: Task = None,
    categorical: Categorical = None,
    missing: Missing = "refuse",
    separator: Separator = ",",
    network: Network = "mlp",
    scheme: Annotated[str, typer.Option(help="How the networks on a data set are regularised.")] = "weight-decay",
    depth: Depth = None,
    width: Width = None,
    activation: Activation = None,
    repeats: Repeats = 3,
    removals: Removals = 20,
    parameters: Annotated[
        Parameters | None,
        typer.Option(help="Where influence is taken; all of a run and a table by name, else the last layer."),
    ] = None,
    damping: Annotated[float | None, typer.Option(help="Of the estimate; automatic when not given.")] = None,
    curvature: Annotated[str, typer.Option(help="Of the estimate: ggn or hessian.")] = "ggn",
    solver: Annotated[str, typer.Option(help="Of the estimate: auto, conjugate-gradients, lissa, ...")] = "auto",
    epochs: StudyEpochs = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    refit_epochs: RefitEpochs = None,
    seed: Seed = 0,
    test_example: TestExample = None,
    tests: Annotated[int, typer.Option(help="Test examples of largest loss; a table by name has one.")] = 5,
    refits: Annotated[str, typer.Option(help="newton, trained, or auto: newton where that is convex.")] = "auto",
    polish: Polish = False,
    device: Device = "cpu",
    data_folder: DataFolder = None,
    out: Annotated[Path | None, typer.Option(help="Result folder; runs/audit-DATASET when not given.")] = None,
    jobs: Jobs = None,
) -> None:
    """Hold influence estimates against retraining: how wrong are they, and is network, linearisation or solver why."""
    given = dict(locals())
    from bayes_influence.experiments.audit.report import printed_audit
    from bayes_influence.experiments.audit.settings import AuditSettings
    from bayes_influence.training.schedules import Schedule

    with clear_errors():
        settings = settings_of(
            AuditSettings, given, refit_schedule=Schedule(AUDIT_EPOCHS if refit_epochs is None else refit_epochs)
        )
        if refits == "newton":
            refuse_given(["refit_epochs"], "retraining by Newton's method has no epochs")
        found, folder = (audit_of_run if is_study(dataset) else audit_of_data)(dataset, given, settings)
    for shown in printed_audit(found):
        print_wide(shown)
    for note in [*found.notes, *found.polished]:
        say(f"Note: {note}.")
    say(found.verdict.sentence)
    say(f"Tables, figure and configuration: {folder}")


@app.command(cls=GivenOptions)
def influence(
    run: Annotated[Path, typer.Argument(help="Folder of a finished training run.")],
    on: Annotated[
        Path | None, typer.Option(help="A CSV or Parquet file of new rows, all of which are explained, or --test.")
    ] = None,
    test: Annotated[list[int] | None, typer.Option(help="Test example, counted from 0; repeatable.")] = None,
    test_id: Annotated[list[int] | None, typer.Option(help="Test example by its id; repeatable.")] = None,
    top: Annotated[int, typer.Option(help="Training examples ranked, most helpful and most harmful.")] = 10,
    parameters: Annotated[str, typer.Option(help="all, last-layer, means or last-layer-means.")] = "last-layer",
    curvature: Annotated[str, typer.Option(help="hessian, ggn, empirical-fisher or ekfac.")] = "hessian",
    solver: Annotated[str, typer.Option(help="auto, cholesky, conjugate-gradients, lissa, ...")] = "auto",
    damping: Annotated[float | None, typer.Option(help="Automatic when not given.")] = None,
    polish: Polish = False,
    measurement: Annotated[str | None, typer.Option(help="entropy, margin, variance, ...; the loss otherwise.")] = None,
    index: Annotated[int, typer.Option(help="Which of the run's seeds, counted from 0.")] = 0,
    device: Device = "cpu",
    data_folder: DataFolder = None,
    out: Annotated[
        Path | None, typer.Option(help="Result folder; RUN-influence-TEST, with what else was said, when not given.")
    ] = None,
) -> None:
    """Name the training examples that shaped a run's predictions, most helpful and most harmful."""
    given = dict(locals())
    from bayes_influence.data.files import named
    from bayes_influence.experiments.attribution.of_run import InfluenceRequest, influence_of_run
    from bayes_influence.experiments.attribution.ranking import LOSS, printed_rankings

    tests, test_ids = tuple(test or ()), tuple(test_id or ())
    new = [] if on is None else [on.stem]
    said = [str(given[name]) for name in IDENTIFYING if given_or_none(name, given[name]) is not None]
    rest = [*(f"id{identity}" for identity in test_ids), *said, *(["polished"] if polish else [])]
    run = named(run)
    answer = "-".join([run.name, "influence", *new, *map(str, tests), *rest])
    with clear_errors():
        refuse_data_folder(data_of_run(run))
        own: dict[str, Any] = {"tests": tests, "test_ids": test_ids, "on": None if on is None else str(on)}
        request = settings_of(InfluenceRequest, given, **own)
        where: dict[str, Any] = {"data_folder": data_folder, "device": given_or_none("device", device)}
        found = influence_of_run(run, out or run.with_name(answer), request, **where)
    for table in printed_rankings(found.ranking, found.measured, new=on is not None):
        print_wide(table)
    if found.polished:
        say(f"Note: {found.polished}.")
    if found.measured != LOSS and request.measurement is None:
        say(f"{on} has no targets: influence is on the {found.measured}.")
    say(f"Scores{', table and pictures' if found.pictures else ' and table'}: {found.folder}")
