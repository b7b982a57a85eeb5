"""What the command line says while it works, as it does where no terminal watches."""

import logging
import subprocess
import sys
import warnings
from contextlib import contextmanager

import pandas as pd

from bayes_influence.cli.said import Said, say_what_is_done


@contextmanager
def fresh_log():
    """A log that nobody has set up, as at the start of a program; it is given back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    root.handlers = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            yield root
    finally:
        root.handlers = handlers
        root.setLevel(level)


def test_a_warning_is_printed_once_whichever_way_it_comes(capsys):
    with fresh_log():
        say_what_is_done(verbose=False)
        for _ in range(2):
            logging.getLogger("bayes_influence.data").warning("%d rows twice", 3)
            warnings.warn("3 rows twice", UserWarning, stacklevel=1)
        logging.getLogger("bayes_influence.data").info("not asked for")
        logging.getLogger("bayes_influence.curvature.cost").info("refits, about 3 min")
    told = capsys.readouterr().err.splitlines()
    assert [line.split(" ", 1)[1] for line in told] == ["warning: 3 rows twice", "refits, about 3 min"]


def test_lines_are_whole_and_nothing_in_them_is_markup(capsys):
    with fresh_log() as root:
        root.addHandler(Said())
        logging.getLogger("bayes_influence").error("[bold]%s", "long " * 60)
    assert capsys.readouterr().err.split(" ", 1)[1].strip() == "error: [bold]" + ("long " * 60).strip()


def test_a_training_whose_output_is_piped_tells_its_plan_its_epochs_and_its_report(tmp_path):
    frame = pd.DataFrame({"x": [*range(40), 0], "y": [*["n", "p"] * 20, "n"]})
    frame.to_csv(tmp_path / "towns.csv", index=False)
    told = [sys.executable, "-m", "bayes_influence", "train", tmp_path / "towns.csv", "--target", "y", "--epochs", "2"]
    options = ["--scheme", "none", "--width", "3", "--batch-size", "16", "--out", tmp_path / "run"]
    done = subprocess.run([*told, *options], capture_output=True, text=True, check=True)
    said = [line.split(" ", 1)[1] for line in done.stderr.splitlines()]
    assert len([line for line in said if "1 of 41 rows repeat an earlier row (40)" in line]) == 1
    assert (
        "training of towns: 32 training and 9 test examples; mlp (width 3, depth 1, activation tanh), 14 parameters, "
        "scheme none; 2 epochs of 2 batches, 1 network"
    ) in said
    assert any(line.startswith("epoch 2 of 2: objective 0.") for line in said)
    assert done.stdout.splitlines()[0].split()[:3] == ["seed", "n", "accuracy"]
    assert done.stdout.splitlines()[-1].endswith(str(tmp_path / "run"))
