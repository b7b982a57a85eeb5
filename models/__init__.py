"""Deterministic networks, each written once; imported as `bayes_influence.models`."""

if __name__ == "models":
    raise ImportError("import these networks as bayes_influence.models, not as the bare name models")
