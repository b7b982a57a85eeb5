import builtins
import json

import pandas as pd
import pyarrow.parquet as parquet
import pytest
import torch

from bayes_influence.influence.scores import InfluenceScores


def scores(**options):
    values = torch.tensor([[1.0, -2.0, 0.5], [0.0, 1 / 3, 4.0]], dtype=torch.float64)
    return InfluenceScores(values, torch.tensor([7, 3, 9]), torch.tensor([20, 21]), measurement="margin", **options)


@pytest.mark.parametrize(
    "options",
    [{}, {"smallest_eigenvalue": 0.5, "residual_norms": torch.ones(2), "gradient_norms": torch.ones(3)}],
)
def test_the_table_is_that_of_to_frame_with_what_it_is(options, tmp_path):
    found = scores(**options)
    found.to_parquet(tmp_path / "scores.parquet")
    read = pd.read_parquet(tmp_path / "scores.parquet")
    pd.testing.assert_frame_equal(read, found.to_frame())
    assert read.loc[1, "removal"] == 2 / 3  # helpful: without example 3 the measurement goes up
    file = parquet.ParquetFile(tmp_path / "scores.parquet")
    assert file.num_row_groups == 2
    assert json.loads(file.schema_arrow.metadata[b"bayes_influence"])["measurement"] == "margin"
    assert [path.name for path in tmp_path.iterdir()] == ["scores.parquet"]


def test_without_pyarrow_it_says_what_to_install(tmp_path, monkeypatch):
    genuine = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return genuine(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"Parquet needs pyarrow; pip install 'bayes-influence\[parquet\]'"):
        scores().to_parquet(tmp_path / "scores.parquet")
    assert not list(tmp_path.iterdir())
