import numpy as np
import pandas as pd
import pytest


@pytest.fixture(scope="session")
def towns(tmp_path_factory):
    """A table with a class, a real target and two labels, and a column of categories."""
    x = np.random.default_rng(0).normal(size=(90, 2))
    noise = np.random.default_rng(1).normal(size=(90, 2))
    frame = pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "c": np.where(noise[:, 1] > 0, "north", "south")})
    frame["kind"] = np.where(x[:, 0] + noise[:, 0] > 0, "town", "village")
    frame["price"] = 100 + 20 * x[:, 0] + 5 * noise[:, 0]
    frame["u"], frame["v"] = (x[:, 0] > 0) * 1, (x[:, 1] + noise[:, 1] > 0) * 1
    path = tmp_path_factory.mktemp("data") / "towns.csv"
    frame.to_csv(path, index=False)
    return path


@pytest.fixture(scope="session")
def table(towns, tmp_path_factory):
    """The same table with some of the targets alone."""

    def written(*target):
        path = tmp_path_factory.mktemp("data") / "towns.csv"
        columns = ["a", "b", "c", *target]
        pd.read_csv(towns)[columns].to_csv(path, index=False)
        return str(path)

    return written
