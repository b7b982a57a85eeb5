from dataclasses import replace

import pandas as pd
import pytest

from bayes_influence.data.locks import BusyError
from bayes_influence.experiments.papers.fragility import everything
from bayes_influence.experiments.papers.fragility.everything import WholeStudy, reproduce_everything, written_summary
from bayes_influence.experiments.papers.study import Reproduced
from bayes_influence.experiments.store.runner import FailedCellsError


@pytest.fixture
def recorded(monkeypatch):
    """Parts that only note what they were asked for; as published some fail."""
    asked = []
    errors = {
        "fig2": FileNotFoundError("mnist: no such file; give the folder that has it"),
        "fig4": BusyError("another process is writing the study folder curves"),
        "ablation": ValueError("the study folder ablation belongs to another configuration"),
    }

    def part(name):
        def run(settings, out, n_jobs, progress):
            asked.append((name, settings, out.name))
            if name in errors and asked[0][1].mode == "as-published":
                raise errors[name]
            return Reproduced(out, pd.DataFrame(), (out / f"{name}.png",), (f"{name} agrees.",))

        return run

    parts = {
        where: tuple(replace(study, run=part(study.name)) for study in studies)
        for where, studies in everything.PARTS.items()
    }
    monkeypatch.setattr(everything, "PARTS", parts)
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
        ("refit-length", "refit-length"),
        ("all-layers", "all-layers"),
        ("training-recipe", "training-recipe"),
    ]
    assert all(settings.scale == "quick" for _, settings, _ in recorded)
    assert [name for name, settings, _ in recorded if getattr(settings, "data_folder", None) == "data"] == [
        *("fig2", "fig4", "fig5", "ablation-images", "training-recipe")
    ]
    assert found.findings[0] == "fig1 agrees."
    text = (tmp_path / "summary.txt").read_text()
    assert text.startswith("bayes-influence reproduce fig1 --mode corrected --scale quick\n- fig1 agrees.\n\n")
    assert (
        "bayes-influence reproduce ablation-images --scale quick --data-folder data\n- ablation-images agrees.\n"
        in text
    )
    assert "bayes-influence reproduce all-layers --scale quick\n- all-layers agrees.\n" in text


def test_commands_of_the_summary_have_all_that_was_said_and_are_an_option(recorded, tmp_path):
    study = WholeStudy(scale="quick", seed=3, test_example=83, data_folder="my data")
    found = reproduce_everything(study, tmp_path, 1, progress=False)
    assert list(found.table["study"]) == [name for name, _, _ in recorded]
    said = (tmp_path / "summary.txt").read_text().split("\n")
    mode, iris, images = " --mode corrected", " --seed 3 --test-example 83", " --data-folder 'my data'"
    assert [line.partition("reproduce ")[2] for line in said if line.startswith("bayes-influence")] == [
        f"fig1{mode} --scale quick{iris}",
        f"fig3{mode} --scale quick{iris}",
        f"fig2{mode} --scale quick --seed 3{images}",
        f"fig4{mode} --scale quick{iris}{images}",
        f"fig5{mode} --scale quick{iris}{images}",
        f"ablation --scale quick{iris}",
        f"ablation-images --scale quick --seed 3{images}",
        f"refit-length --scale quick{iris}",
        f"all-layers --scale quick{iris}",
        f"training-recipe --scale quick --seed 3{images}",
    ]


def test_what_fails_is_said_at_the_end_and_the_others_go_on(recorded, tmp_path):
    study = WholeStudy(mode="as-published", scale="quick")
    with pytest.raises(FailedCellsError, match=r"3 of 10 cells failed.*fig2: FileNotFoundError: mnist") as error:
        reproduce_everything(study, tmp_path, 1, progress=False)
    assert list(error.value.failures) == ["fig2", "fig4", "ablation"]
    assert [name for name, _, _ in recorded][-1] == "training-recipe"
    summary = (tmp_path / "summary.txt").read_text()
    assert "- failed: mnist: no such file; give the folder that has it" in summary
    assert "- failed: another process is writing the study folder curves" in summary
    assert "- failed: the study folder ablation belongs to another configuration" in summary
    assert "- fig5 agrees." in summary


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
