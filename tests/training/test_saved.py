import json

import pytest
import torch
from torch import nn

from bayes_influence.curvature.damping import IdentityDamping
from bayes_influence.data.packed import packed
from bayes_influence.data.sealed import DamagedFileError
from bayes_influence.data.synthetic import logistic_classes
from bayes_influence.data.versions import environment
from bayes_influence.influence.influence import Influence
from bayes_influence.models.mlp import MLP
from bayes_influence.moments.convert import to_bayesian
from bayes_influence.objectives.expected_likelihoods import TiltedCategorical
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.members import Members
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay
from bayes_influence.training import saved
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.minibatch import Trained, train_minibatches
from bayes_influence.training.minibatch_schedule import MinibatchSchedule
from bayes_influence.training.prepared import prepared_objective
from bayes_influence.training.saved import KIND, load, save
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.schemes import SCHEMES
from tests.fitted import tanh_network

SCHEDULE = Schedule(20, 0.02)


def assert_same(found, kept):
    """All numbers of two stacks are the same bits, in the same order."""
    assert type(found) is type(kept)
    assert (found.labels, found.seeds) == (kept.labels, kept.seeds)
    for mine, its in ((found.state, kept.state), (found.objective.buffers, kept.objective.buffers)):
        assert list(mine) == list(its)
        assert all(torch.equal(mine[name], its[name]) and mine[name].dtype == its[name].dtype for name in its)


def assert_predicts_and_scores_alike(found, kept, train, test):
    for one, other in zip(found, kept, strict=True):
        with torch.no_grad():
            assert torch.equal(one.losses(one.params, test.batch()), other.losses(other.params, test.batch()))
            assert torch.equal(one.value(one.params, train.batch()), other.value(other.params, train.batch()))
        scores = [Influence(part, train, damping=IdentityDamping(50.0)).on_loss(test).values for part in (one, other)]
        assert torch.equal(*scores)


def test_a_calibrated_network_comes_back_with_its_factors_and_no_other_structure_does(train, test, tmp_path):
    scheme = SCHEMES["bnn"].with_options(structure="calibrated", method="exact")
    (fits,) = fit_schemes([scheme], tanh_network, train, [3, 8], SCHEDULE, tolerance=None)
    save(tmp_path / "kept", fits)
    found = load(tmp_path / "kept", tanh_network).trained
    assert_same(found, fits)
    assert set(found.buffers) == {"2.variance_factor"}
    assert_predicts_and_scores_alike(found, fits, train, test)
    diagonal = to_bayesian(tanh_network(), method="exact")
    with pytest.raises(ValueError, match=r"structure='calibrated'\)\) there and .* here; pass one built as that was"):
        load(tmp_path / "kept", diagonal)


def test_a_file_that_says_no_structure_is_of_a_diagonal_network(tmp_path, monkeypatch):
    twin = Objective(to_bayesian(tanh_network(), method="exact"), TiltedCategorical())
    genuine = saved._network_described

    def without_structure(network):
        described = genuine(network)
        return {**described, "approximation": described["approximation"][:2]}

    with monkeypatch.context() as patch:
        patch.setattr(saved, "_network_described", without_structure)
        save(tmp_path / "kept", twin)
    found = load(tmp_path / "kept", tanh_network).trained.network
    assert repr(found) == repr(twin.network)
    assert found[0].approximation.options == ("exact", twin.network[0].approximation.max_pooling, "diagonal")


@pytest.mark.parametrize("name", ["weight-decay", "swa", "dropout", "bnn", "bnn-evi", "mean-field-vi", "ivon"])
def test_fits_come_back_and_predict_and_score_the_same_bits(name, train, test, tmp_path):
    (fits,) = fit_schemes([SCHEMES[name]], tanh_network, train, [3, 8], SCHEDULE, tolerance=None)
    save(tmp_path / "kept", fits, train=train, preprocessing={"mean": [0.1, 1 / 3], "by": "feature"})
    found = load(tmp_path / "kept", tanh_network)
    assert_same(found.trained, fits)
    assert found.trained.scheme == fits.scheme
    assert found.trained.objective.names == fits.objective.names
    assert torch.equal(found.trained.gradient_norms, fits.gradient_norms)
    assert torch.equal(found.trained.polished, fits.polished)
    assert found.trained.seconds == fits.seconds
    assert torch.equal(found.train_ids, train.ids)
    assert found.preprocessing == {"mean": [0.1, 1 / 3], "by": "feature"}
    assert found.versions == environment()
    assert_predicts_and_scores_alike(found.trained, fits, train, test)


class Normed(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3))


def test_buffers_of_every_member_and_frozen_parameters_come_back(train, test, tmp_path):
    def network():
        made = Normed()
        made[0].bias.requires_grad_(False)
        return made

    (fits,) = fit_schemes([SCHEMES["weight-decay"]], network, train, [0, 1], SCHEDULE, parameters="all", tolerance=None)
    assert "1.running_mean" in fits.buffers
    save(tmp_path / "kept", fits)
    found = load(tmp_path / "kept", Normed()).trained  # one that is not frozen
    assert_same(found, fits)
    assert "0.bias" not in found.objective.names
    assert_predicts_and_scores_alike(found, fits, train, test)


@pytest.mark.parametrize("seeds", [[0, 1], [0]])
def test_a_minibatch_training_comes_back_with_its_posteriors(train, test, tmp_path, seeds):
    scheme = SCHEMES["swag"]
    objective = prepared_objective(scheme, tanh_network, train, 0)
    stack = Members.of([objective] * len(seeds))
    schedule = MinibatchSchedule(12, 10, 1e-2)
    trained = train_minibatches(objective, stack.params, train, schedule, seeds, averaging=scheme.averaging)
    save(tmp_path / "kept", trained)
    found = load(tmp_path / "kept", tanh_network).trained
    assert isinstance(found, Trained)
    assert_same(found, trained)
    assert torch.equal(found.values, trained.values)
    for one, other in zip(found.posteriors, trained.posteriors, strict=True):
        assert one.layout == other.layout
        assert torch.equal(one.variance, other.variance)
        assert torch.equal(one.mean, other.mean)
    assert_predicts_and_scores_alike(found, trained, train, test)


@pytest.mark.parametrize("max_pooling", ["co-pooling", "clark"])
def test_a_single_objective_comes_back_as_one(train, test, tmp_path, max_pooling):
    twin = to_bayesian(tanh_network(), method="exact", max_pooling=max_pooling)
    objective = SCHEMES["bnn"].objective(twin, len(train), "means").to(torch.float64)
    save(tmp_path / "kept", objective)
    found = load(tmp_path / "kept", tanh_network()).trained
    assert isinstance(found, Objective)
    assert found.parameters == "means"
    assert_same(Members.of(found), Members.of(objective))
    assert_predicts_and_scores_alike([found], [objective], train, test)
    save(tmp_path / "again", found)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "kept").read_bytes()


def half_squares(outputs, targets):
    return 0.5 * (outputs - nn.functional.one_hot(targets, 3)).square().sum(-1)


def test_a_loss_of_ones_own_is_passed_again(train, test, tmp_path):
    objective = Objective(tanh_network().double(), half_squares, WeightDecay(0.1))
    save(tmp_path / "kept", objective)
    with pytest.raises(ValueError, match=r"the likelihood that was saved is half_squares, of which a file can hold"):
        load(tmp_path / "kept", tanh_network)
    with pytest.raises(ValueError, match=r"saved is half_squares, but CrossEntropy\(.*\) came"):
        load(tmp_path / "kept", tanh_network, likelihood=CrossEntropy())
    found = load(tmp_path / "kept", tanh_network, likelihood=half_squares).trained
    assert_predicts_and_scores_alike([found], [objective], train, test)


@pytest.fixture
def kept(tmp_path):
    path = tmp_path / "kept"
    save(path, Objective(tanh_network(), CrossEntropy(), WeightDecay(0.1)))
    return path


@pytest.mark.parametrize(
    ("network", "difference"),
    [
        (lambda: MLP(3, 3, width=5, activation="tanh"), r"\(in_features=3, out_features=4.* there and .*features=5"),
        (lambda: MLP(3, 3, width=4, activation="relu"), r"is Tanh\(\) there and ReLU\(\) here"),
        (lambda: MLP(3, 3, width=4, depth=2, activation="tanh"), r"is absent there|absent here|there and .* here"),
        (lambda: nn.Linear(3, 3), r"the network itself is MLP\(\) there and Linear\(.*\) here"),
        (lambda: to_bayesian(tanh_network()), r"Linear\(.* there and BayesianLinear\(.* here"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_by_its_first_difference(kept, network, difference):
    with pytest.raises(ValueError, match=r"does not fit the one that was saved: .*" + difference):
        load(kept, network)


def test_parameters_of_a_module_itself_are_compared_by_name_and_shape(tmp_path):
    class Scale(nn.Module):
        def __init__(self, name, *shape):
            super().__init__()
            self.register_parameter(name, nn.Parameter(torch.ones(shape)))

    save(tmp_path / "kept", Objective(Scale("a", 3), CrossEntropy(), WeightDecay(0.1)))
    with pytest.raises(ValueError, match=r"tensor 'a' is of shape \(3,\) there and of shape \(4,\) here"):
        load(tmp_path / "kept", lambda: Scale("a", 4))
    with pytest.raises(ValueError, match=r"tensor 'a' is of shape \(3,\) there and absent here"):
        load(tmp_path / "kept", lambda: Scale("b", 3))


def test_what_comes_is_left_as_it_is(kept):
    network = tanh_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    load(kept, network)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_another_thing_than_a_network_is_refused(kept, as_installed):
    with pytest.raises(TypeError, match="load takes a network or a function that builds one, got int"):
        load(kept, lambda: 3)
    with pytest.raises(TypeError, match="got dict"):
        load(kept, {"weight": torch.zeros(3)})
    with pytest.raises(TypeError, match=r"must be one of Objective, Members, Fits, Trained, got MLP"):
        save(kept, tanh_network())


def test_damage_and_other_files_are_told(kept, tmp_path):
    content = kept.read_bytes()
    for damaged in (content[:-3], content[:40], b"", content[:-1] + bytes([content[-1] ^ 1])):
        kept.write_bytes(damaged)
        with pytest.raises(DamagedFileError, match=r"kept cannot be used: it"):
            load(kept, tanh_network)
    kept.write_bytes(packed("checkpoint", {"a": torch.zeros(1)}, {}))
    with pytest.raises(
        DamagedFileError, match=r"kept cannot be used: it is no saved network, but holds \['checkpoint'\]"
    ):
        load(kept, tanh_network)
    kept.write_bytes(packed(KIND, {"a": torch.zeros(1)}, {"format": 99}))
    with pytest.raises(ValueError, match="is of format 99, and this version reads 1"):
        load(kept, tanh_network)
    with pytest.raises(FileNotFoundError, match="no trained networks at"):
        load(tmp_path / "nowhere", tanh_network)


def test_what_json_cannot_hold_is_refused_and_the_old_file_stays(kept):
    before = kept.read_bytes()
    with pytest.raises(TypeError, match="not JSON serializable"):
        save(kept, Objective(tanh_network(), CrossEntropy()), preprocessing={"mean": torch.zeros(3)})
    assert kept.read_bytes() == before
    assert [path.name for path in kept.parent.iterdir()] == ["kept"]


def test_the_file_is_safetensors_and_json(kept):
    content = kept.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])["__metadata__"][KIND]
    said = json.loads(header.partition(" ")[2])
    assert said["regulariser"] == {"class": "WeightDecay", "decay": 0.1}
    assert said["versions"]["bayes-influence"]


def test_more_examples_than_the_network_takes_part_in_are_no_matter(kept):
    data = logistic_classes(5, n_features=3, n_classes=3, seed=2).dataset
    found = load(kept, tanh_network).trained
    assert found.losses(found.params, found.fitting(data.batch())).shape == (5,)
