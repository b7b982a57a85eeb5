from dataclasses import dataclass

import typer
from typer.testing import CliRunner

from bayes_influence.cli.options import clear_errors, refuse_given
from bayes_influence.cli.scheme_options import SchemeCommand, said_scheme_options
from bayes_influence.training.deterministic import Deterministic
from bayes_influence.training.schemes import SCHEMES


def app():
    made = typer.Typer()

    @made.command(cls=SchemeCommand)
    def show(method: str = "own", refuse: bool = False) -> None:
        with clear_errors():
            if refuse:
                refuse_given(said_scheme_options(), "schemes have no say here")
        typer.echo(f"{method} {said_scheme_options()}")

    return made


def test_numbers_and_words_of_schemes_are_options():
    result = CliRunner().invoke(app(), ["--weight-decay", "0.5", "--prior", "fan-in"])
    assert result.output == "own {'weight_decay': 0.5, 'prior': 'fan-in'}\n"
    assert CliRunner().invoke(app(), []).output == "own {}\n"


def test_a_name_that_a_command_has_itself_stays_the_commands():
    assert CliRunner().invoke(app(), ["--method", "x"]).output == "x {}\n"


def test_options_of_schemes_are_refused_by_name_where_they_do_not_apply():
    result = CliRunner().invoke(app(), ["--refuse", "--prior-scale", "2"])
    assert result.exit_code == 2
    assert "--prior-scale does not apply here: schemes have no say here" in result.output


def test_help_says_what_the_docstrings_of_schemes_say():
    told = " ".join(CliRunner().invoke(app(), ["--help"], env={"COLUMNS": "200"}).output.split())
    assert "--probability" in told
    assert "p of dropping an input of a fully connected layer" in told
    assert "--averaging" not in told


def test_a_new_schemes_numbers_are_options_without_a_word_about_it(monkeypatch):
    @dataclass(frozen=True)
    class Shifted(Deterministic):
        """A scheme of our own.

        Attributes:
            shift: How far.
        """

        shift: float = 0.0

    monkeypatch.setitem(SCHEMES, "shifted", Shifted("shifted"))
    assert CliRunner().invoke(app(), ["--shift", "3"]).output == "own {'shift': 3.0}\n"
