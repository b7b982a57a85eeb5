import dataclasses

import pytest
import torch

from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.training import studied_networks
from bayes_influence.experiments.training.studied_networks import StudiedNetworks


def test_the_split_leaves_the_test_example_out_and_standardises_on_the_rest():
    split = StudiedNetworks(test_example=83).split()
    assert split.test.ids.tolist() == [83]
    assert len(split.train) == 149
    assert torch.allclose(split.train.inputs.mean(0), torch.zeros(4).double(), atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset": "irsi"}, "unknown dataset 'irsi'; known: iris, wine"),
        ({"activation": "sellu"}, "unknown activation 'sellu'; known: .*selu"),
        ({"parameters": "first-layer"}, "unknown parameters 'first-layer'; known: last-layer, all"),
        ({"repeats": 0}, "repeats must be at least 1, got 0"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"test_example": 150}, r"no example has id \[150\]; ids run from 0 to 149"),
    ],
)
def test_wrong_settings_are_refused_before_any_work(settings, message):
    with pytest.raises(ValueError, match=message):
        StudiedNetworks(**settings)


def test_a_study_without_its_test_example_cannot_be_split():
    with pytest.raises(ValueError, match="test example is not resolved"):
        StudiedNetworks().split()


def test_the_test_example_is_found_once_and_stored(tmp_path, monkeypatch):
    asked = []

    def hardest(data, make_network, scheme, schedule, progress):
        asked.append((data.name, sum(value.numel() for value in make_network().parameters()), schedule))
        return 132

    monkeypatch.setattr(studied_networks, "hardest_example", hardest)
    folder = StudyFolder(tmp_path / "study", {"study": "compare"})
    networks = StudiedNetworks(depth=3, width=8)
    assert networks.resolved(folder, progress=False) == dataclasses.replace(networks, test_example=132)
    assert networks.resolved(folder, progress=False).test_example == 132
    assert dataclasses.replace(networks, test_example=83).resolved(folder).test_example == 83
    # The reference network, whatever the study's own: 4 inputs, 5 units, 3 classes.
    assert asked == [("iris", 4 * 5 + 5 + 5 * 3 + 3, studied_networks.REFERENCE_SCHEDULE)]


def test_moments_are_those_that_train_takes_except_for_the_papers_networks():
    scheme = StudiedNetworks("mnist", network="lenet", activation="relu").suited_scheme("bnn", {})
    assert (scheme.method, scheme.structure) == ("exact", "calibrated-covariance")
    told = StudiedNetworks("mnist", network="lenet", activation="relu").suited_scheme("bnn", {"method": "first-order"})
    assert (told.method, told.structure) == ("first-order", "calibrated-covariance")
    scheme = StudiedNetworks().suited_scheme("bnn", {})
    assert (scheme.method, scheme.structure, scheme.initial_sigma) == ("first-order", "diagonal", None)
