import torch
from torch import nn

from bayes_influence.data.synthetic import logistic_classes
from bayes_influence.experiments.audit.jobs import on_features
from bayes_influence.experiments.audit.of_networks import audit
from bayes_influence.experiments.audit.of_run import _networks_of_run
from bayes_influence.experiments.audit.settings import AuditSettings
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay
from bayes_influence.training.minibatch import Trained


def test_every_network_of_a_run_keeps_its_own_running_statistics():
    data = logistic_classes(34, n_features=3, n_classes=3, seed=1).dataset
    train, test = data.select(range(30)), data.select(range(30, 34))
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3)).double()
    objective = Objective(network, CrossEntropy(), WeightDecay(0.05))
    params = {name: torch.stack([value, 2 * value]) for name, value in objective.params.items()}
    means = {"1.running_mean": torch.stack([torch.zeros(4), torch.ones(4)]).double()}
    nothing = torch.zeros(0, 2)
    trained = Trained(
        objective=objective, params=params, buffers=means, labels=("3", "5"), values=nothing, accuracies=nothing
    )
    networks = _networks_of_run(trained, train, {"seeds": [3, 5], "scheme": "weight-decay"}, "last-layer")
    assert [fits.seeds for fits in networks] == [(3,), (5,)]
    for index, fits in enumerate(networks):
        _, features, _ = on_features(fits, train, test)
        own = trained.at(index)
        normalised = own.network[1].eval()(
            nn.functional.linear(train.inputs, own.params["0.weight"], own.params["0.bias"])
        )
        scale, shift = (own.params[f"1.{name}"] for name in ("weight", "bias"))
        plain = (normalised - own.network[1].bias) / own.network[1].weight
        torch.testing.assert_close(features.inputs, torch.tanh(plain * scale + shift).detach())
    found = audit(networks, train, test, AuditSettings(removals=4, damping=1e-6, polish=True), progress=False)
    assert found.effects["seed"].unique().tolist() == [3, 5]
    assert found.agreement.set_index("stage").loc["warm", "pearson"] > 0.9
