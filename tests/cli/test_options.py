from dataclasses import dataclass

import pytest
import typer
from typer.testing import CliRunner

from bayes_influence.cli.options import (
    GivenOptions,
    clear_errors,
    refuse_given,
    say,
    settings_of,
    split_words,
    whole_numbers,
)


@dataclass
class Kind:
    """Settings."""

    width: int = 5
    names: tuple[str, ...] = ("a",)


@pytest.fixture
def app():
    app = typer.Typer()

    @app.command(cls=GivenOptions)
    def show(width: int = 3, fast: bool = False) -> None:
        with clear_errors():
            refuse_given(["width", "fast"], "nothing has a width")
        print("shown")

    return app


def test_settings_are_made_of_what_was_said():
    assert settings_of(Kind, {"width": 7, "names": None, "out": "x"}) == Kind(7)
    assert settings_of(Kind, {"width": 7, "names": "b"}, names=("c",)) == Kind(7, ("c",))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [([], "shown"), (["--width", "3"], "--width does not apply here"), (["--fast"], "--fast does not apply here")],
)
def test_an_option_that_was_given_is_refused_also_at_its_default(app, arguments, told):
    result = CliRunner().invoke(app, arguments)
    assert told in result.output
    assert result.exit_code == (2 if arguments else 0)
    assert CliRunner().invoke(app, []).output == "shown\n"


def test_words_and_numbers_are_separated_by_commas():
    assert split_words("none, bnn,") == ("none", "bnn")
    assert whole_numbers("3,5", "seeds") == (3, 5)
    with pytest.raises(ValueError, match="seeds must be whole numbers separated by commas, got '3,x'"):
        whole_numbers("3,x", "seeds")


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [(ValueError("wrong"), 2, "error: wrong\n"), (KeyboardInterrupt("stopped"), 130, "stopped\n")],
)
def test_errors_end_in_a_sentence(error, status, told):
    app = typer.Typer()

    @app.command()
    def fail():
        with clear_errors():
            raise error

    result = CliRunner().invoke(app, [])
    assert result.exit_code == status
    assert result.stderr == told


def test_what_is_said_is_whole_and_no_markup(capsys):
    path = "/".join(["[b]folder"] * 30)
    say(f"Report: {path}")
    assert capsys.readouterr().out == f"Report: {path}\n"
