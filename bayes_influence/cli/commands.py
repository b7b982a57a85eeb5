"""The commands of `bayes-influence`: parse, dispatch, print."""

from __future__ import annotations

import logging
import os
import sys
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.measure import Measurement

from bayes_influence.cli.options import (
    clear_errors,
    columns_of,
    console,
    errors,
    fields_of,
    refuse_given,
    settings_of,
    split_words,
    whole_numbers,
)
from bayes_influence.cli.reproduction import StudyCommands
from bayes_influence.cli.scheme_options import SchemeCommand, said_scheme_options
from bayes_influence.curvature import cost

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


OWN = "or a file: .csv or .parquet (with --target), .npz, a folder of images by class, or module:function"
"""What stands for a data set of the user's own."""


class Parameters(StrEnum):
    """Where influence is taken."""

    LAST_LAYER = "last-layer"
    ALL = "all"


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
        console.print(f"bayes-influence {version('bayes-influence')}", highlight=False)
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
    level = logging.INFO if verbose else logging.WARNING
    logging.getLogger(cost.__name__).setLevel(logging.INFO)
    logging.basicConfig(level=level, format="%(message)s", handlers=[RichHandler(console=errors, show_path=False)])


Target = Annotated[list[str] | None, typer.Option(help="Of a table in a file: a column to predict; repeatable.")]
Task = Annotated[str | None, typer.Option(help="classification, labels or regression, where targets leave it open.")]
Categorical = Annotated[list[str] | None, typer.Option(help="Of a table: a column of categories; repeatable.")]
Missing = Annotated[str, typer.Option(help="Missing inputs of a table: refuse or impute.")]
Separator = Annotated[str, typer.Option(help="Between the columns of a CSV table.")]
Depth = Annotated[int, typer.Option(help="Hidden layers.")]
Width = Annotated[int, typer.Option(help="Units in each.")]
TakenIn = Annotated[Parameters, typer.Option(help="Where influence is taken.")]
DataFolder = Annotated[Path | None, typer.Option(help="Where image sets are kept.")]
Repeats = Annotated[int, typer.Option(help="Seeds per scheme.")]
Removals = Annotated[int, typer.Option(help="Training examples of largest loss, removed one at a time.")]
Epochs = Annotated[int, typer.Option(help="Full-batch steps of training; the paper has 60000.")]
RefitEpochs = Annotated[int, typer.Option(help="Steps of a refit where Newton's method does not apply.")]
Seed = Annotated[int, typer.Option(help="The first seed.")]
Activation = Annotated[str, typer.Option(help="Activation of the hidden layers.")]
TestExample = Annotated[int | None, typer.Option(help="Id of the test example; the hardest one when not given.")]
Jobs = Annotated[int | None, typer.Option(min=1, help="Cells at once; as many as there are cores when not given.")]


@app.command(cls=SchemeCommand)
def compare(
    dataset: Annotated[str, typer.Argument(help="A table by name, iris say; a wrong name lists them.")],
    depth: Depth = 1,
    width: Width = 5,
    activation: Activation = "selu",
    repeats: Repeats = 10,
    removals: Removals = 40,
    schemes: Annotated[str | None, typer.Option(help="Schemes by name, separated by commas.")] = None,
    parameters: TakenIn = Parameters.LAST_LAYER,
    epochs: Epochs = 4000,
    refit_epochs: RefitEpochs = 1000,
    seed: Seed = 0,
    test_example: TestExample = None,
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
        own: dict[str, Any] = {"parameters": parameters.value, "scheme_options": said_scheme_options()}
        study = settings_of(Study, given, **own)
        result = compare_regularisers(study, out or Path("runs") / f"compare-{dataset}", n_jobs=jobs)
    _print_wide(printed_table(result.summary, f"{dataset}, {study.title}, influence in {parameters.value} parameters"))
    for finding in result.findings:
        console.print(finding, highlight=False)
    console.print(f"Test example {result.test_example}. Tables, figure and configuration: {result.folder}")


@app.command(cls=SchemeCommand)
def train(
    dataset: Annotated[str, typer.Argument(help=f"A data set by name, mnist say (a wrong one lists them), {OWN}.")],
    target: Target = None,
    task: Task = None,
    categorical: Categorical = None,
    missing: Missing = "refuse",
    separator: Separator = ",",
    network: Annotated[str, typer.Option(help="mlp, lenet, resnet, vgg11 to vgg19, module:Class, or own.")] = "mlp",
    scheme: Annotated[str, typer.Option(help="How it is regularised; see docs/schemes.md.")] = "bnn",
    seeds: Annotated[str, typer.Option(help="One network each, separated by commas.")] = "0",
    epochs: Annotated[int | None, typer.Option(help="Passes over the data; the data set has its own.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples in a batch; the data set has its own.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="At its highest; 0.002, Bayesian 0.005.")] = None,
    optimiser: Annotated[str, typer.Option(help="adam or sgd.")] = "adam",
    decay: Annotated[str, typer.Option(help="Of the learning rate: cosine or constant.")] = "cosine",
    annealing: Annotated[float, typer.Option(help="Fraction of the steps over which the KL's weight rises.")] = 0.0,
    clip: Annotated[float | None, typer.Option(help="Longest gradient that is followed at its length.")] = None,
    width: Annotated[int | None, typer.Option(help="Hidden units of an MLP, first channels of a resnet; 32.")] = None,
    depth: Annotated[int | None, typer.Option(help="Hidden layers of an MLP; 1.")] = None,
    activation: Annotated[str | None, typer.Option(help="The network's usual one when not given.")] = None,
    warm_start: Annotated[str | None, typer.Option(help="Folder of a run to start from.")] = None,
    train_examples: Annotated[int | None, typer.Option(help="Use only so many training examples.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    predictions: Annotated[str, typer.Option(help="diagonal, linearized or sampled.")] = "diagonal",
    data_folder: DataFolder = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/train-DATASET-NETWORK-SCHEME otherwise.")] = None,
) -> None:
    """Train networks, deterministic or Bayesian; stopped, the same command continues. Ends with a report."""
    given = dict(locals())
    from bayes_influence.data.tables import TABLES
    from bayes_influence.experiments.training.report import train_and_report
    from bayes_influence.experiments.training.settings import TrainRun

    with clear_errors():
        own: dict[str, Any] = {"seeds": whole_numbers(seeds, "seeds"), "scheme_options": said_scheme_options()}
        run = settings_of(TrainRun, given, **own, **columns_of(target, categorical))
        if dataset in TABLES:
            refuse_given(["data_folder"], f"{dataset} comes with scikit-learn")
        if run.known().task != "classification":
            refuse_given(["predictions"], f"{dataset} is no classification, which alone is predicted in several ways")
        if not run.resolved_scheme().bayesian:
            refuse_given(["predictions"], f"{scheme} has no Bayesian network, which alone predicts in several ways")
        folder = out or Path("runs") / f"train-{run.data_name}-{network.replace(':', '-')}-{scheme}"
        report = train_and_report(run, folder, data_folder=data_folder, mode=predictions)
    text = report.dropna(axis="columns", how="all").to_string(index=False, float_format="{:.4f}".format)
    console.print(text, soft_wrap=True, highlight=False)
    console.print(f"Report, reliability plot, checkpoint and configuration: {folder}")


@app.command(cls=SchemeCommand)
def audit(
    target: Annotated[str, typer.Argument(help="A table by name, iris say, or the folder of a finished run.")],
    scheme: Annotated[str, typer.Option(help="How a table's networks are regularised.")] = "weight-decay",
    depth: Depth = 1,
    width: Width = 5,
    activation: Activation = "tanh",
    repeats: Repeats = 3,
    removals: Removals = 20,
    parameters: TakenIn = Parameters.ALL,
    damping: Annotated[float | None, typer.Option(help="Of the estimate; automatic when not given.")] = None,
    curvature: Annotated[str, typer.Option(help="Of the estimate: ggn or hessian.")] = "ggn",
    solver: Annotated[str, typer.Option(help="Of the estimate: auto, conjugate-gradients, lissa, ...")] = "auto",
    epochs: Epochs = 4000,
    refit_epochs: RefitEpochs = 4000,
    seed: Seed = 0,
    test_example: TestExample = None,
    tests: Annotated[int, typer.Option(help="Test examples of largest loss, of a run.")] = 5,
    refits: Annotated[str, typer.Option(help="newton, trained, or auto: newton where that is convex.")] = "auto",
    polish: Annotated[bool, typer.Option(help="Bring the parameters to their minimum first.")] = False,
    data_folder: DataFolder = None,
    out: Annotated[Path | None, typer.Option(help="Result folder; runs/audit-TARGET when not given.")] = None,
    jobs: Jobs = None,
) -> None:
    """Hold influence estimates against retraining: how wrong are they, and is network, linearisation or solver why."""
    given = dict(locals())
    from bayes_influence.experiments.audit.of_run import audit_run
    from bayes_influence.experiments.audit.of_table import audit_table
    from bayes_influence.experiments.audit.report import printed_audit
    from bayes_influence.experiments.audit.settings import AuditedTable, AuditSettings
    from bayes_influence.training.schedules import Schedule

    folder = out or Path("runs") / f"audit-{Path(target).name}"
    with clear_errors():
        settings = settings_of(AuditSettings, given, refit_schedule=Schedule(refit_epochs))
        if refits == "newton":
            refuse_given(["refit_epochs"], "retraining by Newton's method has no epochs")
        if Path(target).is_dir():
            of_tables = [field for field in fields_of(AuditedTable) if field not in ("dataset", "parameters")]
            refuse_given([*of_tables, *said_scheme_options()], f"{target} is a finished run, which has its own")
            asked: dict[str, Any] = {"parameters": parameters.value, "tests": tests, "data_folder": data_folder}
            found, _ = audit_run(target, folder, settings, **asked, n_jobs=jobs)
        else:
            refuse_given(["tests", "data_folder"], f"{target} is no folder of a finished run")
            own = {"dataset": target, "parameters": parameters.value, "scheme_options": said_scheme_options()}
            table = settings_of(AuditedTable, given, **own)
            found, _ = audit_table(table, folder, settings, n_jobs=jobs)
    for shown in printed_audit(found):
        _print_wide(shown)
    for note in found.notes:
        console.print(f"Note: {note}.")
    console.print(found.verdict.sentence)
    console.print(f"Tables, figure and configuration: {folder}")


@app.command()
def influence(
    run: Annotated[Path, typer.Argument(help="Folder of a finished training run.")],
    test: Annotated[list[int] | None, typer.Option(help="Test example, counted from 0; repeatable.")] = None,
    test_id: Annotated[list[int] | None, typer.Option(help="Test example by its id; repeatable.")] = None,
    top: Annotated[int, typer.Option(help="Training examples ranked, most helpful and most harmful.")] = 10,
    parameters: Annotated[str, typer.Option(help="all, last-layer, means or last-layer-means.")] = "last-layer",
    curvature: Annotated[str, typer.Option(help="hessian, ggn, empirical-fisher or ekfac.")] = "hessian",
    solver: Annotated[str, typer.Option(help="auto, cholesky, conjugate-gradients, lissa, ...")] = "auto",
    damping: Annotated[float | None, typer.Option(help="Automatic when not given.")] = None,
    measurement: Annotated[str | None, typer.Option(help="entropy, margin, variance, ...; the loss otherwise.")] = None,
    index: Annotated[int, typer.Option(help="Which of the run's seeds, counted from 0.")] = 0,
    data_folder: DataFolder = None,
    out: Annotated[Path | None, typer.Option(help="Result folder; RUN-influence-TEST when not given.")] = None,
) -> None:
    """Name the training examples that shaped a run's predictions, most helpful and most harmful."""
    given = dict(locals())
    from bayes_influence.experiments.attribution.of_run import InfluenceRequest, influence_of_run
    from bayes_influence.experiments.attribution.ranking import printed_rankings

    tests, test_ids = tuple(test or ()), tuple(test_id or ())
    named = "-".join([run.name, "influence", *map(str, tests), *(f"id{identity}" for identity in test_ids)])
    with clear_errors():
        request = settings_of(InfluenceRequest, given, tests=tests, test_ids=test_ids)
        found = influence_of_run(run, out or run.with_name(named), request, data_folder=data_folder)
    for table in printed_rankings(found.ranking, request.measured):
        _print_wide(table)
    console.print(f"Scores, table and pictures: {found.folder}")


def _print_wide(table: Any) -> None:
    """Prints a table at its own width where the terminal is narrower or no terminal at all."""
    needed = Measurement.get(console, console.options.update(max_width=1000), table).maximum
    Console(width=max(needed, console.width)).print(table)
