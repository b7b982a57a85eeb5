import pytest

from bayes_influence.experiments.comparison.regularisers import compare_regularisers
from bayes_influence.experiments.comparison.study import Study

SMALL = Study(repeats=2, removals=8, epochs=600, refit_epochs=100, test_example=83)


@pytest.fixture(scope="session")
def compared(tmp_path_factory):
    """A small comparison of all default schemes on Iris, and its folder."""
    folder = tmp_path_factory.mktemp("compare") / "iris"
    return compare_regularisers(SMALL, folder, n_jobs=1, progress=False)
