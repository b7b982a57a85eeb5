"""`python -m bayes_influence`: the command `bayes-influence`."""

from bayes_influence.cli import run_program

if __name__ == "__main__":
    run_program()
