import pandas as pd
import pytest

from bayes_influence.experiments.training.settings import TrainRun


@pytest.fixture
def path(tmp_path):
    found = tmp_path / "towns.csv"
    pd.DataFrame({"x": range(20), "y": ["n", "p"] * 10}).to_csv(found, index=False)
    return found


def run_of(path):
    return TrainRun(str(path), "mlp", "weight-decay", target=("y",))


def test_the_configuration_names_the_whole_path_and_the_checksum(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    config = run_of("towns.csv").to_config()
    assert config["dataset"] == str(path)
    assert len(config["checksum"]) == 64
    assert TrainRun.from_config(config).data_name == "towns"


def test_a_file_that_changed_is_refused(path):
    config = run_of(path).to_config()
    path.write_text(path.read_text().replace("3,p", "4,p"))
    with pytest.raises(ValueError, match=r"towns\.csv changed: its SHA-256 starts with \w{8}, and with \w{8} when"):
        TrainRun.from_config(config)


def test_known_sets_have_no_file():
    config = TrainRun("iris", "mlp", "bnn").to_config()
    assert (config["dataset"], config["checksum"], config["target"]) == ("iris", None, ())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset": "iris", "target": ("y",)}, "target is said of tables in a file, and iris is none; leave it out"),
        ({"dataset": "iris", "task": "regression"}, "task is said of tables and arrays in a file, and iris is none"),
        ({"dataset": "iris", "network": "own"}, "iris brings no network of its own; choose one of mlp"),
        ({"dataset": "iris", "network": "nowhere:Net"}, "the module nowhere does not import"),
        ({"dataset": "nowhere_at_all:make"}, "the module nowhere_at_all does not import"),
    ],
)
def test_what_does_not_apply_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainRun(**{"network": "mlp", **settings})


def test_a_network_of_ones_own_is_one():
    with pytest.raises(
        TypeError, match=r"pathlib:Path must build a network, an nn\.Module, at every call, got pathlib's"
    ):
        TrainRun("iris", "pathlib:Path")


def test_a_network_that_needs_arguments_is_told_how_it_is_called():
    said = r"torch\.nn:Linear builds no network when it is called without arguments, as it is here \(TypeError: "
    with pytest.raises(ValueError, match=said):
        TrainRun("iris", "torch.nn:Linear", "weight-decay")
