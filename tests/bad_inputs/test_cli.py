"""Bad command lines: every command and option, of a wrong kind, out of range, unknown, or absent."""

import re

import pytest
from typer.testing import CliRunner

from bayes_influence.cli import app
from bayes_influence.data.download import DATA_VARIABLE
from bayes_influence.experiments.training.report import train_and_report
from bayes_influence.experiments.training.settings import TrainRun
from tests.bad_inputs.calls import missing_names

ROWS = [
    ("nope", "No such command 'nope'"),
    ("--nope", "No such option: --nope"),
    ("compare", "Missing argument"),
    ("train", "Missing argument"),
    ("audit", "Missing argument"),
    ("influence", "Missing argument"),
    ("reproduce nope", "No such command 'nope'"),
    ("compare iris wine", "Got unexpected extra argument"),
    ("compare iris --nope 3", "No such option: --nope"),
    ("compare mnist", "mnist: train-images-idx3-ubyte not found"),
    ("compare nope", "unknown dataset 'nope'; known: iris, wine, breast-cancer, digits"),
    ("compare iris --depth x", "Invalid value for '--depth'"),
    ("compare iris --depth -1", "depth must be at least 0, got -1"),
    ("compare iris --width 0", "width must be at least 1, got 0"),
    ("compare iris --width 1.5", "Invalid value for '--width'"),
    ("compare iris --activation 3", "unknown activation '3'; known: celu, elu"),
    ("compare iris --repeats 0", "repeats must be at least 1, got 0"),
    (
        "compare iris --removals 2",
        "removals must lie in 3..149 (iris has 149 training examples), got 2",
    ),
    ("compare iris --removals x", "Invalid value for '--removals'"),
    ("compare iris --schemes ,", "unknown scheme (none given); known: none, weight-decay"),
    ("compare iris --schemes none,none", "each scheme once, got none, none"),
    ("compare iris --parameters body", "Invalid value for '--parameters'"),
    ("compare iris --epochs 1e3", "Invalid value for '--epochs'"),
    ("compare iris --refit-epochs 0", "refit_epochs must be at least 1, got 0"),
    ("compare iris --seed -1", "seed must be at least 0, got -1"),
    ("compare iris --test-example -1", "iris: no example has id [-1]; ids run from 0 to 149"),
    ("compare iris --jobs 0", "Invalid value for '--jobs'"),
    ("compare iris --jobs x", "Invalid value for '--jobs'"),
    ("compare iris --weight-decay nan", "weight_decay of the scheme weight-decay must be a finite number, got nan"),
    ("compare iris --weight-decay x", "Invalid value for '--weight-decay'"),
    ("compare iris --regulariser-weight -1", "regulariser_weight of the scheme weight-decay must not be negative"),
    ("compare iris --schemes bnn --prior-scale 0", "prior_scale of the scheme bnn must be positive, got 0.0"),
    ("compare iris --schemes bnn --prior wide", "prior of the scheme bnn must be one of isotropic, fan-in, got 'wide'"),
    ("compare iris --schemes bnn --initial-sigma -1", "initial_sigma of the scheme bnn must be positive, got -1.0"),
    ("compare iris --schemes bnn --method guess", "method of the scheme bnn must be one of first-order, exact"),
    ("compare iris --schemes dropout --probability 1.5", "probability of the scheme dropout must lie in (0, 1), got"),
    ("compare iris --out {file}", "the study folder {file} cannot be written (File exists); choose another one"),
    ("compare iris --out {run}", "the study folder {run} belongs to another configuration: study is train there"),
    ("train mnist", "mnist: train-images-idx3-ubyte not found"),
    ("train mnist --data-folder {empty}/absent", "absent does not exist; name the one in which the files are, or"),
    ("train mnist --data-folder {empty}", "put the files there, or name the folder that has them, by --data-folder"),
    ("train iris --network nope", "unknown network 'nope'; known: mlp, lenet, resnet, vgg11"),
    ("train iris --seeds 1,1", "seeds must be one or more different numbers from 0 on, got (1, 1)"),
    ("train iris --seeds -1", "seeds must be one or more different numbers from 0 on, got (-1,)"),
    ("train iris --seeds 0.5", "seeds must be whole numbers separated by commas, got '0.5'"),
    ("train iris --epochs 0", "epochs and batch_size must be at least 1, got epochs=0"),
    ("train iris --batch-size 0", "epochs and batch_size must be at least 1, got epochs=300, batch_size=0"),
    ("train iris --learning-rate 0", "learning rate and clip must be positive, got learning_rate=0.0"),
    ("train iris --learning-rate nan", "learning_rate must be a finite number, got nan"),
    ("train iris --learning-rate inf", "learning_rate must be a finite number, got inf"),
    ("train iris --learning-rate fast", "Invalid value for '--learning-rate'"),
    ("train iris --optimiser lion", "unknown optimiser 'lion'; known: adam, sgd"),
    ("train iris --decay linear", "unknown decay 'linear'; known: constant, cosine"),
    ("train iris --scheme bnn --annealing 2", "annealing in [0, 1] (fractions of all steps), got 0.0 and 2.0"),
    ("train iris --scheme bnn --annealing -1", "annealing in [0, 1] (fractions of all steps), got 0.0 and -1.0"),
    ("train iris --clip 0", "learning rate and clip must be positive, got learning_rate=0.005, clip=0.0"),
    ("train iris --clip nan", "clip must be a finite number, got nan"),
    ("train iris --width 0", "width must be at least 1, got 0"),
    ("train iris --depth -1", "depth must be at least 0, got -1"),
    ("train iris --activation relo", "unknown activation 'relo'; known: celu, elu"),
    ("train iris --warm-start {empty}/absent", "{empty}/absent holds no study: there is no config.json in it"),
    ("train iris --train-examples 0", "train_examples must be at least 1, got 0"),
    ("train iris --train-examples 121", "train_examples must lie in 1..120, the number of training examples of iris"),
    ("train iris --device nope", "unknown device 'nope'; take 'cpu', or 'cuda'"),
    ("train iris --device cuda:99", "the device 'cuda:99' cannot be used here"),
    ("train iris --device meta", "the device 'meta' cannot be used here"),
    ("train iris --scheme bnn --likelihood nope", "unknown likelihood 'nope'; known: tilted, sobol"),
    ("train iris --out {file}", "the study folder {file} cannot be written (File exists); choose another one"),
    ("audit nope", "unknown dataset 'nope'; known: iris, wine, breast-cancer, digits"),
    ("audit {file}", "unknown dataset '{file}'; known: iris, wine, breast-cancer, digits"),
    ("audit iris --scheme nope", "unknown scheme nope; known: none, weight-decay"),
    ("audit iris --removals 1", "an audit needs at least 3 removed examples for its correlations, got 1"),
    ("audit iris --parameters means", "Invalid value for '--parameters'"),
    ("audit iris --damping -1", "the damping must be positive, got -1.0; leave it out for the automatic one"),
    ("audit iris --damping nan", "damping must be"),
    ("audit iris --damping auto", "Invalid value for '--damping'"),
    ("audit iris --curvature nope", "unknown curvature 'nope'; known: ggn, hessian"),
    ("audit iris --solver nope", "unknown solver 'nope'; known: auto, cholesky"),
    ("audit iris --refits nope", "unknown refits 'nope'; known: auto, newton, trained"),
    ("audit iris --refit-epochs 0", "epochs must be at least 1, got 0"),
    (
        "audit iris --refits newton --refit-epochs 3",
        "--refit-epochs does not apply here: retraining by Newton's method",
    ),
    ("audit iris --test-example 999", "iris: no example has id [999]; ids run from 0 to 149"),
    ("audit iris --tests 3", "--tests does not apply here: of iris one example is left out"),
    ("audit iris --data-folder .", "--data-folder does not apply here: iris comes with scikit-learn"),
    ("audit iris --jobs 0", "Invalid value for '--jobs'"),
    ("audit iris --polish maybe", "Got unexpected extra argument"),
    ("audit {run} --tests 999", "tests must lie in 1..30, the number of the run's test examples, got 999"),
    ("audit {run} --removals 999", "between 1 and 119 of 120 examples can be removed, got 999"),
    ("audit {run} --depth 2", "--depth does not apply here: {run} is a finished run, which has its own; leave it out"),
    ("influence {empty}/absent --test 0", "{empty}/absent holds no study: there is no config.json in it"),
    ("influence {empty} --test 0", "{empty} holds no study: there is no config.json in it"),
    ("influence {run}", "influence needs at least one test example: by position (tests, --test), by id"),
    ("influence {empty}", "{empty} holds no study: there is no config.json in it"),
    ("influence {run} --test x", "Invalid value for '--test'"),
    ("influence {run} --test -1", "iris: no test example -1; the 30 test examples are numbered from 0 to 29"),
    ("influence {run} --test-id 999", "iris: no example has id [999]"),
    ("influence {run} --test 0 --top 0", "top must be at least 1, got 0"),
    ("influence {run} --test 0 --top 999", "top must lie in 1..120, got 999"),
    ("influence {run} --test 0 --parameters body", "unknown parameters 'body'; known: all, layers, last-layer"),
    ("influence {run} --test 0 --curvature nope", "unknown curvature 'nope'; known: hessian, ggn"),
    ("influence {run} --test 0 --solver nope", "unknown solver 'nope'; known: auto, cholesky"),
    ("influence {run} --test 0 --damping -1", "the damping delta must be finite and at least 0, got -1.0"),
    ("influence {run} --test 0 --damping nan", "damping must be a finite number, got nan"),
    ("influence {run} --test 0 --measurement nope", "unknown measurement 'nope'; known: entropy"),
    ("influence {run} --test 0 --index 1", "the run has the seeds 0: index must lie in 0..0, got 1"),
    ("influence {run} --test 0 --index -1", "index must be at least 0, got -1"),
    (
        "influence {run} --test 0 --out {file}",
        "the study folder {file} cannot be written (File exists); choose another",
    ),
    ("influence {run} --test 0 --out {run}", "the study folder {run} belongs to another configuration"),
    ("reproduce fig1 --mode nope", "unknown mode 'nope'; known: corrected, as-published"),
    ("reproduce fig1 --scale huge", "unknown scale 'huge'; known: quick, medium, full"),
    ("reproduce fig1 --repeats 0", "repeats must be at least 1, got 0"),
    ("reproduce fig1 --only 1y5", "a network is named by depth x width, 1x5 say, got '1y5'"),
    ("reproduce fig1 --backend nope", "unknown backend 'nope'; known: loky, multiprocessing, threading, dask, ray"),
    ("reproduce fig1 --test-example 999", "iris: no example has id [999]"),
    ("reproduce fig1 --jobs 0", "Invalid value for '--jobs'"),
    ("reproduce fig1 --out {file}", "the study folder {file} cannot be written (File exists); choose another one"),
    ("reproduce fig2 --scale nope", "unknown scale 'nope'; known: quick, medium, full"),
    ("reproduce fig4 --scale nope", "unknown scale 'nope'; known: quick, medium, full"),
    ("reproduce fig5 --scale nope", "unknown scale 'nope'; known: quick, medium, full"),
    ("reproduce ablation --repeats 0", "repeats must be at least 1, got 0"),
    ("reproduce ablation-images --networks MNIST", "unknown network 'MNIST'; known: digits FC-8, digits FC-32"),
    ("reproduce ablation-images --mode corrected", "No such option: --mode"),
    ("reproduce refit-length --repeats 0", "repeats must be at least 1, got 0"),
    ("reproduce all-layers --orders 1", "orders must be at least 2, got 1"),
    ("reproduce all-layers --mode corrected", "No such option: --mode"),
    ("reproduce training-recipe --recipes adam", "unknown recipe 'adam'; known: base, selu, tanh"),
    ("reproduce all --scale nope", "unknown scale 'nope'; known: quick, medium, full"),
    ("reproduce all --only nope", "No such option: --only"),
]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A finished run, a file, and a folder with nothing in it."""
    folder = tmp_path_factory.mktemp("places")
    (folder / "file").write_text("mine")
    (folder / "empty").mkdir()
    train_and_report(TrainRun("iris", "mlp", "weight-decay", epochs=2, width=5), folder / "run")
    return {name: str(folder / name) for name in ("run", "file", "empty")}


@pytest.fixture
def offline(monkeypatch):
    """No mirror answers."""

    def unreachable(url, path):
        raise ConnectionError("no network in a test")

    monkeypatch.setattr("bayes_influence.data.download._transfer", unreachable)


@pytest.mark.usefixtures("as_installed", "offline")
@pytest.mark.parametrize(("line", "message"), ROWS, ids=[row[0] for row in ROWS])
def test_it_is_refused_in_a_sentence(line, message, places, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv(DATA_VARIABLE, places["empty"])
    arguments, asked = line.format(**places).split(), message.format(**places)
    if len(arguments) > 1 and arguments[:2] != ["reproduce", "nope"] and "--out" not in arguments:
        arguments += ["--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments)
    told = " ".join(re.sub(r"[─│╭╮╰╯]", " ", result.stderr).split())
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2
    assert asked in told
    assert "Traceback" not in told
    if told.startswith("error: "):
        assert result.stderr.count("\n") == 1
        assert missing_names(told) == []
