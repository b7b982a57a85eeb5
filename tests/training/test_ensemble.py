"""The ensemble trainer against torch's own optimiser, schedulers and averaging, one member at a time."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import SWALR, AveragedModel

from bayes_influence.curvature import cost
from bayes_influence.curvature.cost import TooLargeError
from bayes_influence.data.batch import Batch
from bayes_influence.objectives.held import held_per_example
from bayes_influence.objectives.objective import Objective
from bayes_influence.training import ensemble
from bayes_influence.training.ensemble import train_ensemble
from bayes_influence.training.finiteness import NonFiniteTrainingError
from bayes_influence.training.schedules import SWA, Plateau, Schedule
from tests.layer_types import small_problem

EPOCHS = 400


def _network(params, index):
    network = nn.Sequential(nn.Linear(4, 5), nn.SELU(), nn.Linear(5, 3)).double()
    network.load_state_dict({name: value[index] for name, value in params.items()})
    return network


def _train_alone(network, data, weights, decay, schedule, averaging):
    """A member trained by torch alone; the plateau rule watches what is minimised."""
    optimiser = torch.optim.Adam(network.parameters(), schedule.learning_rate, weight_decay=decay)
    rule = schedule.plateau
    plateau = ReduceLROnPlateau(optimiser, factor=rule.factor, patience=rule.patience, threshold=rule.threshold)
    average = AveragedModel(network)
    annealed = SWALR(optimiser, averaging.learning_rate, int(averaging.anneal * schedule.epochs)) if averaging else None
    for epoch in range(schedule.epochs):
        optimiser.zero_grad()
        losses = nn.functional.cross_entropy(network(data.inputs), data.targets, reduction="none")
        loss = (weights * losses).mean()
        loss.backward()
        penalty = 0.5 * decay * sum(value.detach().square().sum() for value in network.parameters())
        optimiser.step()
        if averaging and epoch >= averaging.start * schedule.epochs:
            average.update_parameters(network)
            annealed.step()
        else:
            plateau.step(loss.detach() + penalty)
    return (average.module if averaging else network), optimiser.param_groups[0]["lr"]


def test_every_member_equals_its_own_training_by_torch(objective, start, iris):
    """None, weight decay and both averaged in one run, each with its own data weights and learning rate."""
    schedule = Schedule(EPOCHS, 1e-2, Plateau(patience=5, threshold=1e-3))
    strengths = torch.tensor([0.0, 1.0, 0.0, 1.0]).double()
    averaged = torch.tensor([False, False, True, True])
    weights = torch.ones(4, 149).double()
    weights[torch.arange(4), torch.tensor([3, 70, 100, 140])] = 0.0
    trained = train_ensemble(
        objective,
        start,
        iris.train.batch(),
        schedule,
        data_weights=weights,
        regulariser_weights=strengths,
        averaged=averaged,
        averaging=SWA(),
    )
    rates = set()
    for index in range(4):
        alone, rate = _train_alone(
            _network(start, index),
            iris.train,
            weights[index],
            0.005 * float(strengths[index]),
            schedule,
            SWA() if averaged[index] else None,
        )
        rates.add(rate)
        assert float(trained.learning_rates[index]) == pytest.approx(rate, rel=1e-12)
        for name, value in alone.named_parameters():
            assert torch.allclose(trained.params[name][index], value, atol=1e-10, rtol=0), name
    assert len(rates) > 1, "the plateau rule never took effect, so nothing was tested"


def test_members_do_not_depend_on_who_trains_beside_them(objective, start, iris):
    together = train_ensemble(objective, start, iris.train.batch(), Schedule(50))
    third = {name: value[2:3] for name, value in start.items()}
    alone = train_ensemble(objective, third, iris.train.batch(), Schedule(50))
    for name, value in alone.params.items():
        assert torch.allclose(together.params[name][2:3], value, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("strengths", "traced_together"),
    [([1.0, 0.5, 1.0, 0.5], [4, 2]), ([1.0, 0.5, 1.0, 1.0], [4, 3]), ([1.0, 1.0, 0.5, 0.5], [4])],
)
def test_members_that_only_averaging_tells_apart_share_their_steps_before_it(
    objective, start, iris, monkeypatch, strengths, traced_together
):
    """Members 0 and 2, and 1 and 3, start alike, and are twins where their regularisers are as strong."""
    begun = {name: value[[0, 1, 0, 1]] for name, value in start.items()}
    averaged, strong = torch.tensor([False, False, True, True]), torch.tensor(strengths).double()
    weights = torch.ones(4, 149).double()
    weights[:, 70] = 0.0
    traced = []
    trace = ensemble.trace_members
    monkeypatch.setattr(
        ensemble, "trace_members", lambda *said, **more: traced.append(len(said[3])) or trace(*said, **more)
    )
    options = {"averaged": averaged, "averaging": SWA()}
    taken = {"data_weights": weights, "regulariser_weights": strong}
    trained = train_ensemble(objective, begun, iris.train.batch(), Schedule(60, 1e-2), **options, **taken)
    assert traced == traced_together
    for row in range(4):
        one = {name: value[row : row + 1] for name, value in begun.items()}
        alone = train_ensemble(
            objective,
            one,
            iris.train.batch(),
            Schedule(60, 1e-2),
            data_weights=weights[row : row + 1],
            regulariser_weights=strong[row : row + 1],
            averaged=averaged[row : row + 1],
            averaging=SWA(),
        )
        torch.testing.assert_close(trained.trace[:, row], alone.trace[:, 0], rtol=0, atol=1e-12)
        for name, value in alone.params.items():
            torch.testing.assert_close(trained.params[name][row], value[0], rtol=0, atol=1e-12)


def test_members_may_have_data_of_their_own(objective, start, iris):
    shared = train_ensemble(objective, start, iris.train.batch(), Schedule(30))
    inputs, targets = iris.train.inputs, iris.train.targets
    own = Batch(inputs.expand(4, *inputs.shape), targets.expand(4, -1))
    separate = train_ensemble(objective, start, own, Schedule(30), own_data=True)
    for name, value in shared.params.items():
        assert torch.allclose(separate.params[name], value, atol=1e-12, rtol=0)


def test_the_start_is_left_alone_and_the_trace_descends(objective, start, iris):
    before = {name: value.clone() for name, value in start.items()}
    trained = train_ensemble(objective, start, iris.train.batch(), Schedule(200, 1e-2))
    assert all(torch.equal(start[name], before[name]) for name in start)
    assert trained.trace.shape == (200, 4)
    assert (trained.trace[-1] < 0.5 * trained.trace[0]).all()
    first = objective.value({name: value[1] for name, value in start.items()}, iris.train.batch())
    assert torch.allclose(trained.trace[0, 1], first)


def test_the_caller_s_threads_are_given_back(objective, start, iris):
    before = torch.get_num_threads()
    train_ensemble(objective, start, iris.train.batch(), Schedule(2))
    assert torch.get_num_threads() == before


def test_a_training_that_diverges_names_the_member_and_the_step(iris):
    class Growing(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(()).double())

        def forward(self, inputs):
            return self.scale.expand(len(inputs))

    objective = Objective(Growing(), lambda outputs, targets: torch.sqrt(5 - outputs))
    params = {"scale": torch.tensor([0.0, 3.0]).double()}
    with pytest.raises(NonFiniteTrainingError, match=r"swa, seed 1: the objective became nan at step 2\d; lower"):
        train_ensemble(
            objective, params, iris.train.batch(), Schedule(150, 1e-1, None), labels=["swa, seed 0", "swa, seed 1"]
        )


def test_averaged_members_need_to_know_how(objective, start, iris):
    with pytest.raises(ValueError, match="4 members are to be averaged, but `averaging` does not say how"):
        train_ensemble(objective, start, iris.train.batch(), Schedule(2), averaged=torch.ones(4, dtype=torch.bool))


@pytest.mark.parametrize("layer", ["LSTM", "GRU", "MultiheadAttention", "TransformerEncoderLayer", "custom function"])
def test_layers_of_every_way_are_trained_as_torch_trains_them(layer):
    """Torch cannot trace or batch them as they are: some take plain formulas, some a member at a time."""
    objective, data = small_problem(layer)
    # Attention does not feel the bias of its keys: at 0 its gradient is rounding, of which Adam keeps the sign.
    params = {name: torch.stack([value + 0.1, 1.2 * value + 0.1]) for name, value in objective.params.items()}
    trained = train_ensemble(objective, params, data.batch(), Schedule(10, 0.05))
    for index in range(2):
        network = copy.deepcopy(objective.network)
        network.load_state_dict({name: rows[index] for name, rows in params.items()})
        optimiser = torch.optim.Adam(network.parameters(), 0.05, weight_decay=0.05)
        for _ in range(10):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(data.inputs), data.targets).backward()
            optimiser.step()
        for name, value in network.named_parameters():
            torch.testing.assert_close(trained.params[name][index], value.detach(), rtol=1e-6, atol=1e-8)


def test_objectives_are_looked_at_every_25_steps_and_at_the_end(objective, start, iris, monkeypatch):
    looked = []
    monkeypatch.setattr(ensemble, "check_finite", lambda values, first, labels: looked.append((first, len(values))))
    for epochs, expected in ((60, [(0, 25), (25, 25), (50, 10)]), (50, [(0, 25), (25, 25)]), (3, [(0, 3)])):
        looked.clear()
        train_ensemble(objective, start, iris.train.batch(), Schedule(epochs, 1e-2))
        assert looked == expected


@pytest.mark.usefixtures("as_installed")
def test_targets_that_do_not_fit_are_refused_before_a_step(objective, start, iris):
    batch = iris.train.batch()
    with pytest.raises(ValueError, match=r"CrossEntropy needs classes in 0\.\.2, .*, got 3"):
        train_ensemble(objective, start, Batch(batch.inputs, batch.targets + 1), Schedule(3, 1e-2))


def test_a_training_that_does_not_fit_is_refused_before_it_is_traced(objective, start, iris, monkeypatch):
    """Of every member the averages of its parameters, and what gradients of all examples make."""
    monkeypatch.setattr(cost, "SMALL_BYTES", 0)
    monkeypatch.setattr(cost, "available_bytes", lambda device: 1000)
    monkeypatch.setattr(ensemble, "trace_members", None)
    members, parameters = len(start["0.bias"]), sum(value[0].numel() for value in start.values())
    numbers = 6 * parameters + 1.1 * len(iris.train) * held_per_example(objective, iris.train.batch())
    held = cost.shown_bytes(8 * members * numbers)
    with pytest.raises(TooLargeError, match=rf"training of {members} networks for 7 steps holds {held}, .*at_once=1"):
        train_ensemble(objective, start, iris.train.batch(), Schedule(7))


def test_the_time_of_a_training_is_told_from_its_first_steps(objective, start, iris, monkeypatch, caplog):
    monkeypatch.setattr(cost, "LONG_SECONDS", 0.0)
    with caplog.at_level("INFO", cost.__name__):
        train_ensemble(objective, start, iris.train.batch(), Schedule(30))
    (message,) = caplog.messages
    members = len(start["0.bias"])
    assert message.startswith(f"training of {members} networks for 30 steps: holds ")
    assert f", {members * 30} passes over the examples, about " in message
