"""Options that several commands have, each said once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

OWN = "or a file: .csv or .parquet (with --target), .npz, a folder of images by class, or module:function"
"""What stands for a data set of the user's own."""


class Parameters(StrEnum):
    """Where influence is taken."""

    LAST_LAYER = "last-layer"
    ALL = "all"


Target = Annotated[list[str] | None, typer.Option(help="Of a table in a file: a column to predict; repeatable.")]
Task = Annotated[str | None, typer.Option(help="classification, labels or regression, where targets leave it open.")]
Categorical = Annotated[list[str] | None, typer.Option(help="Of a table: a column of categories; repeatable.")]
Missing = Annotated[str, typer.Option(help="Missing inputs of a table: refuse or impute.")]
Separator = Annotated[str, typer.Option(help="Between the columns of a CSV table.")]
Network = Annotated[str, typer.Option(help="mlp, lenet, resnet, vgg11 to vgg19, module:Class, or own.")]
Depth = Annotated[int | None, typer.Option(help="Hidden layers of an MLP; 1.")]
Width = Annotated[int | None, typer.Option(help="Hidden units of an MLP; 5 on a table by name, else 32.")]
Activation = Annotated[str | None, typer.Option(help="Of hidden layers; usually tanh in an MLP.")]
TakenIn = Annotated[Parameters, typer.Option(help="Where influence is taken.")]
DataFolder = Annotated[Path | None, typer.Option(help="Where image sets are kept.")]
Repeats = Annotated[int, typer.Option(help="Seeds per scheme.")]
Removals = Annotated[int, typer.Option(help="Training examples of largest loss, removed one at a time.")]
StudyEpochs = Annotated[
    int | None,
    typer.Option(help="Full-batch steps on a table by name (4000, the paper's are 60000); else passes over the data."),
]
BatchSize = Annotated[int | None, typer.Option(help="Examples in a batch; the data set has its own.")]
LearningRate = Annotated[float | None, typer.Option(help="At its highest; 0.002, Bayesian 0.005, full-batch 0.001.")]
RefitEpochs = Annotated[
    int | None,
    typer.Option(
        help="Steps of a refit where Newton's method does not apply; 1000, an audit's 4000, fewer on many examples."
    ),
]
Seed = Annotated[int, typer.Option(help="The first seed.")]
TestExample = Annotated[int | None, typer.Option(help="Id of the test example; the hardest one when not given.")]
Polish = Annotated[bool, typer.Option(help="Bring the parameters to their minimum first.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, ...")]
Jobs = Annotated[int | None, typer.Option(min=1, help="Cells at once; as many as there are cores when not given.")]
