import pandas as pd

from bayes_influence.experiments.papers.study import publish
from bayes_influence.experiments.store.folder import StudyFolder


def test_a_study_is_published_as_two_files_of_its_figure_a_summary_and_what_is_printed(drawing, tmp_path):
    folder, table = StudyFolder(tmp_path / "study", {"study": "one"}), pd.DataFrame({"slope": [1.0]})
    done = publish(folder, "fig9", drawing, ["first agrees", "second does not"], table)
    assert done.folder == folder.path
    assert done.table is table
    assert done.findings == ("first agrees", "second does not")
    assert [path.name for path in done.figures] == ["fig9.png", "fig9.pdf"]
    assert done.figures[0].read_bytes().startswith(b"\x89PNG")
    assert done.figures[1].read_bytes().startswith(b"%PDF")
    assert (folder.path / "fig9-summary.txt").read_text() == "first agrees\nsecond does not\n"
