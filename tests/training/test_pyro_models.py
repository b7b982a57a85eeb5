from math import log

import pytest
import torch
from torch import nn
from torch.func import functional_call

from bayes_influence.data.batch import Batch
from bayes_influence.models.initialisation import initial_params
from bayes_influence.models.mlp import MLP
from bayes_influence.moments.convert import to_bayesian
from bayes_influence.objectives.expected_likelihoods import ExpectedGaussian, TiltedCategorical
from bayes_influence.objectives.likelihoods import Bernoulli, CrossEntropy, GaussianNoise
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import RHO
from bayes_influence.objectives.regularisers import GaussianKL, WeightDecay

pyro = pytest.importorskip("pyro")
from bayes_influence.training.pyro_models import (  # noqa: E402 - importing Pyro may be impossible
    LogScaleNormal,
    guide_params,
    svi_step,
    to_pyro,
)

NETWORK = MLP(3, 2, width=4, seed=0).double()
INPUTS = torch.randn(12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
CLASSES = torch.arange(12) % 2
SCALES = {"0.weight": 0.5, "0.bias": 2.0, "2.weight": 1.0, "2.bias": 3.0}


@pytest.mark.parametrize("prior_scale", [0.7, SCALES])
def test_the_models_log_density_is_prior_times_likelihood(prior_scale):
    model = to_pyro(NETWORK, prior_scale)
    weights = dict(NETWORK.named_parameters())
    conditioned = pyro.poutine.condition(model, data=weights)
    trace = pyro.poutine.trace(conditioned).get_trace(INPUTS, CLASSES, scale=2.5, prior_weight=0.3)
    expected = -2.5 * CrossEntropy()(NETWORK(INPUTS), CLASSES).sum()
    for name, value in weights.items():
        scale = prior_scale[name] if isinstance(prior_scale, dict) else prior_scale
        expected = expected + 0.3 * torch.distributions.Normal(0.0, scale).log_prob(value).sum()
    torch.testing.assert_close(trace.log_prob_sum(), expected)


def test_a_regression_models_likelihood_is_gaussian():
    targets = torch.randn(12, 2, dtype=torch.float64)
    model = pyro.poutine.condition(
        to_pyro(NETWORK, likelihood=GaussianNoise(0.4)), data=dict(NETWORK.named_parameters())
    )
    trace = pyro.poutine.trace(model).get_trace(INPUTS, targets)
    trace.compute_log_prob()
    expected = -GaussianNoise(0.4)(NETWORK(INPUTS), targets)
    torch.testing.assert_close(trace.nodes["targets"]["log_prob"], expected)


@pytest.mark.parametrize("shape", [(12,), (12, 1), (12, 2)])
def test_a_models_likelihood_of_labels_is_bernoulli(shape):
    """A label of each logit, log p(y | f) = y log sigmoid(f) + (1 - y) log sigmoid(-f), added up over an example's."""
    network = MLP(3, 1 if len(shape) == 1 else shape[1], width=4, seed=0).double()
    labels = (torch.arange(12 * shape[-1]) % 3 == 0)[: torch.Size(shape).numel()].view(shape)
    model = pyro.poutine.condition(to_pyro(network, likelihood=Bernoulli()), data=dict(network.named_parameters()))
    trace = pyro.poutine.trace(model).get_trace(INPUTS, labels.long())
    trace.compute_log_prob()
    logits = network(INPUTS)
    expected = torch.where(labels.view_as(logits), logits.sigmoid(), (-logits).sigmoid()).log().sum(1)
    torch.testing.assert_close(trace.nodes["targets"]["log_prob"], expected)


def test_parameters_without_a_distribution_stay_numbers():
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double().eval()
    trace = pyro.poutine.trace(to_pyro(network)).get_trace(INPUTS, CLASSES)
    assert set(trace.stochastic_nodes) == {"0.weight", "0.bias", "2.weight", "2.bias", "examples"}


@pytest.mark.parametrize("local", [True, False])
def test_a_guides_parameters_are_called_as_those_of_the_bayesian_twin(local):
    pyro.clear_param_store()
    with pyro.settings.context(module_local_params=local):
        check_parameters_of_a_guide()


def check_parameters_of_a_guide():
    means = {name: value.detach() + 0.5 for name, value in NETWORK.named_parameters()}
    guide = LogScaleNormal(
        to_pyro(NETWORK), init_loc_fn=pyro.infer.autoguide.init_to_value(values=means), init_scale=0.2
    )
    with pytest.raises(ValueError, match="the guide has no parameters yet"):
        guide_params(guide)
    guide(INPUTS, CLASSES)
    params = guide_params(guide)
    assert params.keys() == initial_params(lambda: to_bayesian(NETWORK), [0]).keys()
    for name, value in means.items():
        torch.testing.assert_close(params[name], value)
        torch.testing.assert_close(params[name + RHO], torch.full_like(value, log(0.2)))
    draws = torch.stack([guide(INPUTS, CLASSES)["2.bias"] for _ in range(500)])
    torch.testing.assert_close(draws.mean(0), means["2.bias"], atol=0.04, rtol=0)
    torch.testing.assert_close(draws.std(0), torch.full_like(means["2.bias"], 0.2), rtol=0.15, atol=0)


def variational(likelihood=TiltedCategorical(), prior_scale=0.8):  # noqa: B008
    return Objective(to_bayesian(NETWORK, initial_sigma=0.5), likelihood, GaussianKL(30, prior_scale))


@pytest.mark.parametrize("gaussian", [False, True])
def test_a_step_estimates_the_negative_elbo(gaussian):
    objective = variational(ExpectedGaussian(0.5) if gaussian else TiltedCategorical())
    targets = torch.randn(12, 2, dtype=torch.float64) if gaussian else CLASSES
    likelihood = GaussianNoise(0.5) if gaussian else CrossEntropy()
    weights = torch.rand(12, dtype=torch.float64)
    weights[3] = 0.0
    step = svi_step(objective, 30)
    params = objective.params
    estimates, direct = [], []
    with torch.no_grad():
        for _ in range(250):
            estimates.append(step(params, {}, Batch(INPUTS, targets), weights, 0.5)[0])
            drawn = {
                name: params[name] + params[name + RHO].exp() * torch.randn_like(params[name])
                for name in dict(NETWORK.named_parameters())
            }
            direct.append((weights * likelihood(functional_call(NETWORK, drawn, (INPUTS,)), targets)).mean())
        expected = torch.stack(direct).mean() + 0.5 * objective.regulariser(params)
    sampled = torch.stack(estimates)
    error = (sampled.var() + torch.stack(direct).var()).sqrt() / 250**0.5
    assert (sampled.mean() - expected).abs() < 4 * error
    assert error < 0.03 * expected


def test_a_step_differentiates_means_and_scales_and_follows_the_seed():
    objective = variational()
    step = svi_step(objective, 30)
    batch = Batch(INPUTS, CLASSES)
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        leaves = {name: value.clone().requires_grad_() for name, value in objective.params.items()}
        value, right = step(leaves, {}, batch, None, 1.0)
        results.append([value, right, *torch.autograd.grad(value, list(leaves.values()))])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
    assert all(part.abs().max() > 0 for part in results[0][2:])


def test_another_regulariser_is_refused():
    with pytest.raises(TypeError, match="needs a GaussianKL as the regulariser, got WeightDecay"):
        svi_step(Objective(NETWORK, CrossEntropy(), WeightDecay(0.1)), 30)
