import pytest

from bayes_influence.experiments.comparison.regularisers import compare_regularisers
from bayes_influence.experiments.comparison.study import Study
from bayes_influence.experiments.store.drawings import Drawing


@pytest.fixture(autouse=True)
def drawings_are_kept(request, monkeypatch):
    """Whatever figure a study stores, the stored drawing is whole and draws."""
    if "store" in request.path.parts:  # whose tests store what draws nothing
        return
    encode = Drawing.encode

    def checked(self):
        content = encode(self)
        again = Drawing.decode(content)
        assert encode(again) == content
        again.figure()
        return content

    monkeypatch.setattr(Drawing, "encode", checked)


SMALL = Study(repeats=2, removals=8, epochs=600, refit_epochs=100, test_example=83)


@pytest.fixture(scope="session")
def compared(tmp_path_factory):
    """A small comparison of all default schemes on Iris, and its folder."""
    folder = tmp_path_factory.mktemp("compare") / "iris"
    return compare_regularisers(SMALL, folder, n_jobs=1, progress=False)
