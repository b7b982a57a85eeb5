import pytest

from tests.experiments.papers.fragility.all_figures import check_all_figures


@pytest.mark.slow
def test_everything_runs_as_published(tmp_path, monkeypatch):
    check_all_figures("as-published", tmp_path / "all", monkeypatch)
