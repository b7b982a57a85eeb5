from dataclasses import replace

import pandas as pd
import pytest

from bayes_influence.experiments.papers.fragility import everything
from bayes_influence.experiments.papers.fragility.everything import WholeStudy, reproduce_everything, written_summary
from bayes_influence.experiments.papers.study import Reproduced
from bayes_influence.experiments.store.runner import FailedCellsError


@pytest.fixture
def recorded(monkeypatch):
    """Parts that only note what they were asked for; fig2 fails where its mode is as published."""
    asked = []

    def part(name):
        def run(settings, out, n_jobs, progress):
            asked.append((name, settings, out.name))
            if name == "fig2" and settings.mode == "as-published":
                raise FileNotFoundError("mnist: no such file; give the folder that has it")
            return Reproduced(out, pd.DataFrame(), (out / f"{name}.png",), (f"{name} agrees.",))

        return run

    monkeypatch.setattr(everything, "reproduce_figure", lambda name, *given: part(name)(*given))
    monkeypatch.setattr(everything, "reproduce_curves", lambda name, *given: part(name)(*given))
    monkeypatch.setattr(everything, "reproduce_images", part("fig2"))
    monkeypatch.setattr(everything, "reproduce_ablation", part("ablation"))
    monkeypatch.setattr(everything, "reproduce_image_ablation", part("ablation-images"))
    monkeypatch.setattr(everything, "reproduce_all_layers", part("all-layers"))
    monkeypatch.setattr(everything, "reproduce_recipes", part("training-recipe"))
    return asked


def test_every_study_runs_in_its_folder_and_speaks_in_the_summary(recorded, tmp_path):
    found = reproduce_everything(WholeStudy(scale="quick", data_folder="data"), tmp_path, 1, progress=False)
    assert [(name, folder) for name, _, folder in recorded] == [
        ("fig1", "iris"),
        ("fig3", "iris"),
        ("fig2", "images"),
        ("fig4", "curves"),
        ("fig5", "curves"),
        ("ablation", "ablation"),
        ("ablation-images", "ablation-images"),
        ("all-layers", "all-layers"),
        ("training-recipe", "training-recipe"),
    ]
    assert all(settings.scale == "quick" for _, settings, _ in recorded)
    assert (
        recorded[2][1].data_folder
        == recorded[3][1].data_folder
        == recorded[6][1].data_folder
        == recorded[8][1].data_folder
        == "data"
    )
    assert found.findings[0] == "fig1 agrees."
    text = (tmp_path / "summary.txt").read_text()
    assert text.startswith("bayes-influence reproduce fig1 --mode corrected --scale quick\n- fig1 agrees.\n\n")
    assert "bayes-influence reproduce ablation-images --scale quick\n- ablation-images agrees.\n" in text
    assert "bayes-influence reproduce all-layers --scale quick\n- all-layers agrees.\n" in text


def test_what_fails_is_said_at_the_end_and_the_others_go_on(recorded, tmp_path):
    study = WholeStudy(mode="as-published", scale="quick")
    with pytest.raises(FailedCellsError, match=r"1 of 9 cells failed.*fig2: FileNotFoundError: mnist: no such file"):
        reproduce_everything(study, tmp_path, 1, progress=False)
    assert [name for name, _, _ in recorded][-1] == "training-recipe"
    assert "- failed: mnist: no such file; give the folder that has it" in (tmp_path / "summary.txt").read_text()


def test_a_folder_of_another_scale_is_refused(recorded, tmp_path):
    study = WholeStudy(scale="quick")
    reproduce_everything(study, tmp_path, 1, progress=False)
    with pytest.raises(ValueError, match="scale is quick there and full here"):
        reproduce_everything(replace(study, scale="full"), tmp_path, 1, progress=False)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="unknown scale 'large'; known: quick, medium, full"):
        WholeStudy(scale="large")
    with pytest.raises(ValueError, match="no example has id"):
        WholeStudy(test_example=500)


def test_a_summary_has_findings_under_their_commands():
    table = pd.DataFrame({"command": ["one", "one", "two"], "finding": ["a", "b", "c"]})
    assert written_summary(table) == "one\n- a\n- b\n\ntwo\n- c\n"
