"""`python -m bayes_influence`: the command `bayes-influence`."""

from bayes_influence.cli import app

if __name__ == "__main__":
    app()
