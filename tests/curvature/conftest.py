"""Small float64 problems whose curvature can be written down densely."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bayes_influence.data.batch import Batch
from bayes_influence.data.dataset import Dataset
from bayes_influence.moments.convert import to_bayesian
from bayes_influence.objectives.derivatives import dense_hessian, per_example_gradients
from bayes_influence.objectives.expected_likelihoods import TiltedCategorical
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import RHO
from bayes_influence.objectives.regularisers import GaussianKL, WeightDecay
from bayes_influence.torch_internals import tree_flatten, tree_leaves, tree_unflatten


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


class VariationalLinear(nn.Module):
    """One linear layer with Gaussian weights; its outputs are (means, variances)."""

    def __init__(self, n_inputs: int, n_outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.5 * torch.randn(n_outputs, n_inputs, dtype=torch.float64))
        self.weight_rho = nn.Parameter(torch.empty(n_outputs, n_inputs, dtype=torch.float64).uniform_(-3, -1))

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        return inputs @ self.weight.T, inputs.square() @ torch.exp(2 * self.weight_rho).T


def second_order_cross_entropy(outputs: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
    means, variances = outputs
    p = means.softmax(-1)
    return cross_entropy(means, targets) + 0.5 * ((p - p.square()) * variances).sum(-1)


@pytest.fixture(scope="session")
def classification() -> Dataset:
    """24 examples of 4 features in 3 classes."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(24, 4, dtype=torch.float64, generator=generator)
    return Dataset(inputs, torch.randint(3, (24,), generator=generator), torch.arange(24), name="random classes")


@pytest.fixture(scope="session")
def make_objective() -> Callable[..., Objective]:
    """A 4-5-3 tanh network with weight decay, in float64 unless told otherwise."""

    def make(selection: str = "all", decay: float = 0.05, dtype: torch.dtype = torch.float64) -> Objective:
        torch.manual_seed(2)
        network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).to(dtype)
        return Objective(network, cross_entropy, WeightDecay(decay), parameters=selection)

    return make


@pytest.fixture(scope="session")
def variational_objective(classification: Dataset) -> Objective:
    """A variational linear classifier and its negative ELBO over n, to second order in the logits' variance."""
    torch.manual_seed(3)
    network = VariationalLinear(4, 3)
    assert [name for name, _ in network.named_parameters()] == ["weight", "weight" + RHO]
    return Objective(network, second_order_cross_entropy, GaussianKL(len(classification)))


@pytest.fixture(scope="session")
def bayesian_objective(classification: Dataset) -> Objective:
    """A 4-3-3 network that propagates moments, and its negative ELBO over n with the tilted bound."""
    torch.manual_seed(4)
    network = to_bayesian(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)).double(), initial_sigma=0.2)
    return Objective(network, TiltedCategorical(), GaussianKL(len(classification)))


@pytest.fixture(scope="session")
def random_matrix() -> Callable[..., Tensor]:
    """A symmetric matrix with given eigenvalues in random directions."""

    def make(eigenvalues: Tensor, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        size = len(eigenvalues)
        directions, _ = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator))
        matrix = (directions * eigenvalues.to(torch.float64)) @ directions.T
        return 0.5 * (matrix + matrix.T)

    return make


def outputs_jacobian(objective: Objective, batch: Batch) -> tuple[Tensor, Tensor, Callable[[Tensor, int], Tensor]]:
    """Flat outputs (n, C), their Jacobian (n, C, P), and the loss of example i as a function of its flat outputs."""
    fixed, layout = objective.params, objective.layout
    theta = layout.flatten(fixed)
    leaves, structure = tree_flatten(objective.outputs(fixed, batch.inputs))
    widths = [leaf.shape[1] for leaf in leaves]

    def flat_outputs(parameters: Tensor) -> Tensor:
        return torch.cat(tree_leaves(objective.outputs({**fixed, **layout.unflatten(parameters)}, batch.inputs)), dim=1)

    def loss(values: Tensor, index: int) -> Tensor:
        outputs = tree_unflatten([part.unsqueeze(0) for part in values.split(widths)], structure)
        return objective.likelihood(outputs, batch.targets[index : index + 1])[0]

    return flat_outputs(theta), torch.func.jacrev(flat_outputs)(theta), loss


def regulariser_hessian(objective: Objective) -> Tensor:
    fixed, layout = objective.params, objective.layout
    value = lambda theta: objective.regulariser({**fixed, **layout.unflatten(theta)})  # noqa: E731
    return objective.regulariser_weight * torch.func.hessian(value)(layout.flatten(fixed))


@pytest.fixture(scope="session")
def hessian_of() -> Callable[[Objective, Batch], Tensor]:
    return dense_hessian


@pytest.fixture(scope="session")
def gauss_newton_of() -> Callable[[Objective, Batch], Tensor]:
    """(1/n) sum_i J_i' Lambda_i J_i + s grad^2 R, example by example."""

    def matrix(objective: Objective, batch: Batch) -> Tensor:
        outputs, jacobian, loss = outputs_jacobian(objective, batch)
        total = regulariser_hessian(objective)
        for index in range(len(outputs)):
            curvature = torch.func.hessian(loss)(outputs[index], index)
            total = total + jacobian[index].T @ curvature @ jacobian[index] / len(outputs)
        return total

    return matrix


@pytest.fixture(scope="session")
def empirical_fisher_of() -> Callable[[Objective, Batch], Tensor]:
    def matrix(objective: Objective, batch: Batch) -> Tensor:
        gradients = per_example_gradients(objective, batch)
        return gradients.T @ gradients / len(gradients) + regulariser_hessian(objective)

    return matrix


@pytest.fixture(scope="session")
def ekfac_of() -> Callable[..., Tensor]:
    """EK-FAC's definition with explicit Kronecker products: per-example activations, gradients and Jacobians."""

    def matrix(objective: Objective, batch: Batch, empirical: bool = False) -> Tensor:
        outputs, jacobian, loss = outputs_jacobian(objective, batch)
        gradients = []
        for index in range(len(outputs)):
            if empirical:
                vectors = torch.func.grad(loss)(outputs[index], index).unsqueeze(0)
            else:
                values, basis = torch.linalg.eigh(torch.func.hessian(loss)(outputs[index], index))
                vectors = (basis * values.clamp(min=0).sqrt()).T
            gradients.append(vectors @ jacobian[index])
        places = objective.layout.unflatten(torch.arange(objective.layout.total))
        total = torch.zeros(objective.layout.total, objective.layout.total, dtype=outputs.dtype)
        for path in dict.fromkeys(name.rpartition(".")[0] for name in objective.names):
            roles = [role for role in ("weight", "bias") if f"{path}.{role}".lstrip(".") in places]
            first = places[f"{path}.{roles[0]}".lstrip(".")]
            where = torch.cat([places[f"{path}.{role}".lstrip(".")].reshape(len(first), -1) for role in roles], dim=1)
            layer = objective.network.get_submodule(path)
            received = _received(objective, path, batch)
            if "bias" in roles:
                received = torch.cat([received, torch.ones_like(received[..., :1])], dim=-1)
            if "weight" not in roles:
                received = received[..., -1:]
            factor_a = torch.einsum("nld,nle->de", received, received)
            sent = _sent_back(objective, path, layer, batch, outputs, loss, empirical)
            factor_b = torch.einsum("rnlo,rnlp->op", sent, sent)
            basis = torch.kron(torch.linalg.eigh(factor_b)[1], torch.linalg.eigh(factor_a)[1])
            rows = torch.cat([gradient[:, where.flatten()] for gradient in gradients])
            block = rows.T @ rows / len(outputs)
            reg = regulariser_hessian(objective)[where.flatten()][:, where.flatten()]
            diagonal = torch.diag((basis.T @ (block + reg) @ basis).diagonal())
            total[where.flatten().unsqueeze(1), where.flatten()] = basis @ diagonal @ basis.T
        return total

    return matrix


def _received(objective: Objective, path: str, batch: Batch) -> Tensor:
    """(n, L, D): the layer's inputs, a convolution's patches found by convolving with unit kernels."""
    seen: list[Tensor] = []
    layer = objective.network.get_submodule(path)
    with torch.no_grad():
        handle = layer.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].clone()))
        torch.func.functional_call(objective.network, objective.params, (batch.inputs,))
        handle.remove()
        if isinstance(layer, nn.Linear):
            return seen[0].reshape(len(seen[0]), -1, seen[0].shape[-1])
        size = layer.weight[0].numel()
        units = torch.eye(size, dtype=layer.weight.dtype).reshape(size, *layer.weight.shape[1:])
        patches = layer._conv_forward(seen[0], units, None)
    return patches.flatten(2).transpose(1, 2)


def _sent_back(objective, path, layer, batch, outputs, loss, empirical) -> Tensor:
    """(R, n, L, O): gradients in the layer's outputs, by differentiating in a shift that is added to them."""
    seen: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _module, _arguments, result: seen.append(result))
    objective.outputs(objective.params, batch.inputs)
    handle.remove()

    def shifted(shift: Tensor) -> Tensor:
        hook = layer.register_forward_hook(lambda _module, _arguments, result: result + shift)
        try:
            return objective.outputs(objective.params, batch.inputs)
        finally:
            hook.remove()

    _, pull = torch.func.vjp(shifted, torch.zeros_like(seen[0]))
    vectors = []
    for index in range(len(outputs)):
        if empirical:
            vectors.append(torch.func.grad(loss)(outputs[index], index).unsqueeze(0))
        else:
            values, basis = torch.linalg.eigh(torch.func.hessian(loss)(outputs[index], index))
            vectors.append((basis * values.clamp(min=0).sqrt()).T)
    sent = torch.stack([pull(column)[0] for column in torch.stack(vectors, dim=1)])
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return sent.flatten(3).transpose(2, 3)
    return sent.reshape(*sent.shape[:2], -1, sent.shape[-1])
