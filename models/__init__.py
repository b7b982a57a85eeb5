"""Deterministic networks, each written once; imported as `bayes_influence.models`."""

if __name__ == "models":
    raise ImportError(
        "this folder is installed as bayes_influence.models: install the project (pip install -e .) and "
        "import bayes_influence.models, not the bare name models"
    )
