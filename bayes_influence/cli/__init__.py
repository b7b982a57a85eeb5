"""The command `bayes-influence`: `app` holds all its commands, `run_program` is the program."""

from bayes_influence.cli.commands import app, run_program

__all__ = ["app", "run_program"]
