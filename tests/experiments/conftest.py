import pandas as pd
import pytest

from bayes_influence.experiments.comparison.figures import sizes_figure
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


@pytest.fixture
def drawing():
    """A figure of numbers over depths and widths."""
    sizes = [(1, 2), (1, 4), (2, 2)]
    summary = pd.DataFrame(
        [
            {"depth": depth, "width": width, "scheme": scheme, "estimator": "all", "spearman": 0.1 * depth + number}
            | {"spearman_low": 0.0, "spearman_high": 1.0, "series": scheme}
            for depth, width in sizes
            for number, scheme in enumerate(("none", "swa"))
        ]
    )
    return Drawing(sizes_figure, (summary, "spearman", "Spearman", False))


SMALL = Study(repeats=2, removals=8, epochs=600, refit_epochs=100, test_example=83)


@pytest.fixture(scope="session")
def compared(tmp_path_factory):
    """A small comparison of all default schemes on Iris, and its folder."""
    folder = tmp_path_factory.mktemp("compare") / "iris"
    return compare_regularisers(SMALL, folder, n_jobs=1, progress=False)
