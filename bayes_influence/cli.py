"""The command `bayes-influence`: parse, dispatch, print."""

from __future__ import annotations

import logging
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.measure import Measurement

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Which training examples shaped a prediction, and can that answer be trusted?",
)
console = Console()
errors = Console(stderr=True)


class Parameters(StrEnum):
    """Where influence is taken."""

    LAST_LAYER = "last-layer"
    ALL = "all"


class PaperFigure(StrEnum):
    """The figures of the papers that can be reproduced."""

    FIG1 = "fig1"
    FIG3 = "fig3"


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


@app.callback()
def main(verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what is done.")] = False) -> None:
    """Which training examples shaped a prediction, and can that answer be trusted?"""
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", handlers=[RichHandler(console=errors, show_path=False)])


Repeats = Annotated[int, typer.Option(help="Seeds per scheme.")]
Removals = Annotated[int, typer.Option(help="Training examples of largest loss, removed one at a time.")]
Schemes = Annotated[str | None, typer.Option(help="Schemes by name, separated by commas.")]
Epochs = Annotated[int, typer.Option(help="Full-batch steps of training; the paper has 60000.")]
RefitEpochs = Annotated[int, typer.Option(help="Steps of a refit where Newton's method does not apply.")]
Seed = Annotated[int, typer.Option(help="The first seed.")]
Activation = Annotated[str, typer.Option(help="Activation of the hidden layers.")]
TestExample = Annotated[int | None, typer.Option(help="Id of the test example; the hardest one when not given.")]
Jobs = Annotated[int | None, typer.Option(help="Cells at once; as many as there are cores when not given.")]


@app.command()
def compare(
    dataset: Annotated[str, typer.Argument(help="A table by name, iris say; a wrong name lists them.")],
    depth: Annotated[int, typer.Option(help="Hidden layers.")] = 1,
    width: Annotated[int, typer.Option(help="Units in each.")] = 5,
    activation: Activation = "selu",
    repeats: Repeats = 10,
    removals: Removals = 40,
    schemes: Schemes = None,
    parameters: Annotated[Parameters, typer.Option(help="Where influence is taken.")] = Parameters.LAST_LAYER,
    epochs: Epochs = 4000,
    refit_epochs: RefitEpochs = 1000,
    seed: Seed = 0,
    test_example: TestExample = None,
    out: Annotated[Path | None, typer.Option(help="Result folder; runs/compare-DATASET when not given.")] = None,
    jobs: Jobs = None,
) -> None:
    """Compare regularisation schemes on influence accuracy and Hessian spectrum."""
    from bayes_influence.experiments.comparison.regularisers import compare_regularisers
    from bayes_influence.experiments.comparison.summary import printed_table

    with _clear_errors():
        study = _study(
            schemes,
            dataset=dataset,
            depth=depth,
            width=width,
            activation=activation,
            repeats=repeats,
            removals=removals,
            parameters=parameters.value,
            epochs=epochs,
            refit_epochs=refit_epochs,
            seed=seed,
            test_example=test_example,
        )
        result = compare_regularisers(study, out or Path("runs") / f"compare-{dataset}", n_jobs=jobs)
    title = f"{dataset}, {depth} x {width} {activation}, influence in {parameters.value} parameters"
    _print_wide(printed_table(result.summary, title))
    for finding in result.findings:
        console.print(finding, highlight=False)
    console.print(f"Test example {result.test_example}. Tables, figure and configuration: {result.folder}")


@app.command()
def reproduce(
    figure: Annotated[PaperFigure, typer.Argument(help="A figure of Epifano et al.")],
    activation: Activation = "selu",
    repeats: Repeats = 10,
    removals: Removals = 40,
    schemes: Schemes = None,
    epochs: Epochs = 4000,
    refit_epochs: RefitEpochs = 1000,
    seed: Seed = 0,
    test_example: TestExample = None,
    out: Annotated[Path, typer.Option(help="Result folder; figures share its cells.")] = Path("runs/fragility-iris"),
    jobs: Jobs = None,
) -> None:
    """Reproduce a figure over depth 1 to 8 and width 5 to 50 on Iris."""
    from bayes_influence.experiments.papers.fragility_iris import reproduce_figure

    with _clear_errors():
        study = _study(
            schemes,
            activation=activation,
            repeats=repeats,
            removals=removals,
            epochs=epochs,
            refit_epochs=refit_epochs,
            seed=seed,
            test_example=test_example,
        )
        result, anova = reproduce_figure(figure.value, study, out, n_jobs=jobs)
    console.print(anova[["between", "at", "statistic", "p_value"]].to_string(index=False))
    console.print(f"Figure {result.folder / figure.value}.png; tables and configuration: {result.folder}")


@app.command()
def train(
    dataset: Annotated[str, typer.Argument(help="A data set by name, mnist say; a wrong name lists them.")],
    network: Annotated[str, typer.Option(help="mlp, lenet, resnet, or vgg11, vgg13, vgg16, vgg19.")] = "mlp",
    scheme: Annotated[str, typer.Option(help="How it is regularised; see docs/schemes.md.")] = "bnn",
    seeds: Annotated[str, typer.Option(help="One network each, separated by commas.")] = "0",
    epochs: Annotated[int | None, typer.Option(help="Passes over the data; the data set has its own.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples in a batch; the data set has its own.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="At its highest; 0.002, Bayesian 0.005.")] = None,
    optimiser: Annotated[str, typer.Option(help="adam or sgd.")] = "adam",
    decay: Annotated[str, typer.Option(help="Of the learning rate: cosine or constant.")] = "cosine",
    annealing: Annotated[float, typer.Option(help="Fraction of the steps over which the KL's weight rises.")] = 0.0,
    clip: Annotated[float | None, typer.Option(help="Longest gradient that is followed at its length.")] = None,
    width: Annotated[int, typer.Option(help="Hidden units of an MLP, first channels of a residual network.")] = 32,
    depth: Annotated[int, typer.Option(help="Hidden layers of an MLP.")] = 1,
    activation: Annotated[str | None, typer.Option(help="The network's usual one when not given.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of the schemes that have it.")] = None,
    prior_scale: Annotated[float, typer.Option(help="Standard deviation of a weight under the prior.")] = 1.0,
    prior: Annotated[str, typer.Option(help="isotropic, or fan-in: divided by the root of the fan-in.")] = "fan-in",
    kl_weight: Annotated[float | None, typer.Option(help="The scheme's own when not given; 1 is the ELBO.")] = None,
    likelihood: Annotated[str | None, typer.Option(help="tilted, sobol, taylor, jensen or evi.")] = None,
    method: Annotated[str, typer.Option(help="first-order, exact or gauss-hermite.")] = "first-order",
    initial_sigma: Annotated[float, typer.Option(help="sigma sqrt(fan-in) at the start.")] = 0.2,
    warm_start: Annotated[str | None, typer.Option(help="Folder of a run to start from.")] = None,
    train_examples: Annotated[int | None, typer.Option(help="Use only so many training examples.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    predictions: Annotated[str, typer.Option(help="diagonal, linearized or sampled.")] = "diagonal",
    data_folder: Annotated[Path | None, typer.Option(help="Where image sets are kept.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/train-DATASET-NETWORK-SCHEME otherwise.")] = None,
) -> None:
    """Train networks, deterministic or Bayesian; stopped, the same command continues. Ends with a report."""
    settings = {
        name: value for name, value in locals().items() if name not in ("seeds", "predictions", "data_folder", "out")
    }
    from bayes_influence.experiments.training.report import train_and_report
    from bayes_influence.experiments.training.settings import TrainRun

    with _clear_errors():
        try:
            numbers = tuple(int(seed) for seed in seeds.split(","))
        except ValueError:
            raise ValueError(f"seeds must be whole numbers separated by commas, got {seeds!r}") from None
        run = TrainRun(seeds=numbers, **settings)
        folder = out or Path("runs") / f"train-{dataset}-{network}-{scheme}"
        report = train_and_report(run, folder, data_folder=data_folder, mode=predictions)
    text = report.dropna(axis="columns", how="all").to_string(index=False, float_format="{:.4f}".format)
    console.print(text, soft_wrap=True, highlight=False)
    console.print(f"Report, reliability plot, checkpoint and configuration: {folder}")


AUDITED_STUDY = [
    "depth",
    "width",
    "activation",
    "repeats",
    "removals",
    "epochs",
    "refit_epochs",
    "seed",
    "test_example",
]
"""Options of `audit` that are settings of a study of the same name."""


@app.command()
def audit(
    target: Annotated[str, typer.Argument(help="A table by name, iris say, or the folder of a finished run.")],
    scheme: Annotated[str, typer.Option(help="How networks are regularised; a run has its own.")] = "weight-decay",
    depth: Annotated[int, typer.Option(help="Hidden layers.")] = 1,
    width: Annotated[int, typer.Option(help="Units in each.")] = 5,
    activation: Activation = "tanh",
    repeats: Repeats = 3,
    removals: Removals = 20,
    parameters: Annotated[Parameters, typer.Option(help="Where influence is taken.")] = Parameters.ALL,
    damping: Annotated[float | None, typer.Option(help="Of the estimate; automatic when not given.")] = None,
    curvature: Annotated[str, typer.Option(help="Of the estimate: ggn or hessian.")] = "ggn",
    solver: Annotated[str, typer.Option(help="Of the estimate: auto, conjugate-gradients, lissa, ...")] = "auto",
    epochs: Epochs = 4000,
    refit_epochs: RefitEpochs = 4000,
    seed: Seed = 0,
    test_example: TestExample = None,
    tests: Annotated[int, typer.Option(help="Test examples of largest loss, of a run.")] = 5,
    refits: Annotated[str, typer.Option(help="newton, trained, or auto: newton where that is convex.")] = "auto",
    polish: Annotated[bool, typer.Option(help="Bring a run's parameters to their minimum first.")] = False,
    data_folder: Annotated[Path | None, typer.Option(help="Where image sets are kept.")] = None,
    out: Annotated[Path | None, typer.Option(help="Result folder; runs/audit-TARGET when not given.")] = None,
    jobs: Jobs = None,
) -> None:
    """Hold influence estimates against retraining: how wrong are they, and is network, linearisation or solver why."""
    given = dict(locals())
    from bayes_influence.experiments.audit.of_run import audit_run
    from bayes_influence.experiments.audit.of_table import audit_study
    from bayes_influence.experiments.audit.report import printed_audit
    from bayes_influence.experiments.audit.settings import AuditSettings
    from bayes_influence.training.schedules import Schedule

    folder = out or Path("runs") / f"audit-{Path(target).name}"
    with _clear_errors():
        if (Path(target) / "config.json").exists():
            settings = AuditSettings(
                removals, damping, curvature, solver, Schedule(refit_epochs), refits, polish=polish
            )
            found, _ = audit_run(
                target,
                folder,
                settings,
                parameters=parameters.value,
                tests=tests,
                data_folder=data_folder,
                n_jobs=jobs,
            )
        else:
            own = {name: given[name] for name in AUDITED_STUDY}
            study = _study(scheme, dataset=target, parameters=parameters.value, **own)
            found, _ = audit_study(
                study, folder, damping=damping, curvature=curvature, solver=solver, refits=refits, n_jobs=jobs
            )
    for table in printed_audit(found):
        _print_wide(table)
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
    index: Annotated[int, typer.Option(help="Which of the run's seeds, counted from 0.")] = 0,
    data_folder: Annotated[Path | None, typer.Option(help="Where image sets are kept.")] = None,
    out: Annotated[Path | None, typer.Option(help="Result folder; RUN-influence-TEST when not given.")] = None,
) -> None:
    """Name the training examples that shaped a run's predictions, most helpful and most harmful."""
    from bayes_influence.experiments.attribution.of_run import influence_of_run, printed_rankings

    tests, test_ids = test or [], test_id or []
    with _clear_errors():
        found = influence_of_run(
            run,
            out or run.with_name("-".join([run.name, "influence", *map(str, tests), *(f"id{t}" for t in test_ids)])),
            tests,
            test_ids=test_ids,
            top=top,
            index=index,
            data_folder=data_folder,
            parameters=parameters,
            curvature=curvature,
            solver=solver,
            damping="auto" if damping is None else damping,
        )
    for table in printed_rankings(found.ranking):
        _print_wide(table)
    console.print(f"Scores, table and pictures: {found.folder}")


def _study(schemes: str | None, **settings: Any) -> Any:
    from bayes_influence.experiments.comparison.study import Study

    if schemes is not None:
        settings["schemes"] = tuple(name.strip() for name in schemes.split(",") if name.strip())
    return Study(**settings)


def _print_wide(table: Any) -> None:
    """Prints a table at its own width where the terminal is narrower or no terminal at all."""
    needed = Measurement.get(console, console.options.update(max_width=1000), table).maximum
    Console(width=max(needed, console.width)).print(table)


class _clear_errors:  # noqa: N801 - used like a function
    """Prints what was expected, what came and what to do, without a traceback, and leaves with status 2 (130)."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any) -> None:
        if isinstance(error, KeyboardInterrupt):
            errors.print(str(error) or "interrupted", style="yellow", highlight=False, markup=False)
            raise typer.Exit(130) from None
        if isinstance(error, ValueError | TypeError | OSError | RuntimeError):
            errors.print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
            raise typer.Exit(2) from None
