"""The command `bayes-influence`: `app` holds all its commands."""

from bayes_influence.cli.commands import app

__all__ = ["app"]
