"""Curvature by the examples that carry it: what is left out, and what conjugate gradients make of that."""

from collections.abc import Callable

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from bayes_influence.curvature.errors import IndefiniteCurvatureError
from bayes_influence.curvature.operators.base import DenseOperator, LinearOperator
from bayes_influence.curvature.operators.gauss_newton import EmpiricalFisherOperator, GaussNewtonOperator
from bayes_influence.curvature.operators.hessian import HessianOperator
from bayes_influence.curvature.operators.leading import LeadingExamples
from bayes_influence.curvature.operators.whitened import WhitenedOperator
from bayes_influence.curvature.solvers import conjugate_gradients as module
from bayes_influence.curvature.solvers.conjugate_gradients import ConjugateGradients
from bayes_influence.curvature.solvers.registry import solve
from bayes_influence.data.dataset import Dataset
from bayes_influence.objectives.likelihoods import CrossEntropy, GaussianNoise
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay

OPERATORS = [HessianOperator, GaussNewtonOperator, EmpiricalFisherOperator]


@pytest.fixture(scope="module")
def confident() -> tuple[Objective, Dataset]:
    """400 examples, and a network that is sure of most of them and right about those: as after training."""
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(400, 4, dtype=torch.float64, generator=generator)
    torch.manual_seed(2)
    network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    with torch.no_grad():
        network[2].weight *= 100
        targets = network(inputs).argmax(dim=1)
    return Objective(network, CrossEntropy(), WeightDecay(0.01)), Dataset(inputs, targets, torch.arange(400))


def exact_masses(objective: Objective, data: Dataset) -> Tensor:
    """||Lambda_i||_F + ||p_i - y_i|| in closed form."""
    p = objective.outputs(objective.params, data.inputs).softmax(1).detach()
    curvatures = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    errors = p - nn.functional.one_hot(data.targets, 3)
    return curvatures.flatten(1).norm(dim=1) + errors.norm(dim=1)


class TestLeadingExamples:
    def test_are_those_with_the_most_curvature(self, confident) -> None:
        objective, data = confident
        masses = exact_masses(objective, data)
        order = LeadingExamples(objective, data, 10).order
        assert sorted(order.tolist()) == list(range(400))
        assert spearmanr(masses[order], -torch.arange(400)).statistic > 0.99

    @pytest.mark.parametrize("error", [0.3, 0.03, 1e-3])
    def test_as_many_as_the_error_needs(self, confident, error) -> None:
        objective, data = confident
        leading = LeadingExamples(objective, data, 10)
        count = leading.batches_for(error)
        masses = exact_masses(objective, data)[leading.order]
        left = lambda batches: float(masses[10 * batches :].sum() / masses.sum())  # noqa: E731
        assert left(count) < 1.1 * error < 1.2 * left(count - 1)
        batches = list(leading.batches(count))
        assert torch.equal(torch.cat([batch.inputs for batch in batches]), data.inputs[leading.order[: 10 * count]])
        assert torch.equal(torch.cat([batch.targets for batch in batches]), data.targets[leading.order[: 10 * count]])

    def test_both_factors_count_as_they_are(self) -> None:
        """Under Gaussian noise Lambda_i = I / s^2, of which random signs are eigenvectors, and grad l_i = e_i / s^2."""
        generator = torch.Generator().manual_seed(6)
        inputs, targets = torch.randn(2, 12, 3, dtype=torch.float64, generator=generator)
        network = nn.Linear(3, 3).double()
        leading = LeadingExamples(
            Objective(network, GaussianNoise(0.5)), Dataset(inputs, targets, torch.arange(12)), batch_size=5
        )
        masses = (3**0.5 + (network(inputs) - targets).norm(dim=1).detach()) / 0.25
        assert torch.equal(leading.order, masses.argsort(descending=True))
        torch.testing.assert_close(leading.left, masses[leading.order].flip(0).cumsum(0).flip(0) / masses.sum())

    @pytest.mark.parametrize("probes", [1, 2])
    def test_masses_are_means_over_the_probes(self, confident, monkeypatch, probes) -> None:
        """||Lambda_i u||^2 of every drawn u, whose signs come from one generator, batch after batch."""
        objective, data = confident
        monkeypatch.setattr("bayes_influence.curvature.operators.leading.PROBES", probes)
        p = objective.outputs(objective.params, data.inputs).softmax(1).detach()
        curvatures = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
        generator = torch.Generator().manual_seed(0)
        drawn = [2 * torch.randint(2, (400, 3), generator=generator) - 1 for _ in range(probes)]
        squares = [torch.einsum("ncd,nd->nc", curvatures, u.double()).square().sum(dim=1) for u in drawn]
        errors = (p - nn.functional.one_hot(data.targets, 3)).norm(dim=1)
        masses = (sum(squares) / probes).sqrt() + errors
        leading = LeadingExamples(objective, data, 400)
        expected = masses.sort(descending=True).values
        torch.testing.assert_close(leading.left, expected.flip(0).cumsum(0).flip(0) / expected.sum())

    def test_no_error_takes_every_example_and_any_error_one_batch(self, confident) -> None:
        assert LeadingExamples(*confident, 10).batches_for(0.0) == 40
        assert LeadingExamples(*confident, 10).batches_for(1.0) == 1

    def test_one_that_is_not_finite_takes_every_example(self, confident) -> None:
        """It is the product that has to say so."""
        _, data = confident
        inputs = data.inputs.clone()
        inputs[350] = 1e308
        broken = Dataset(inputs, data.targets, data.ids)
        linear = nn.Linear(4, 3).double()
        with torch.no_grad():
            linear.weight.copy_(torch.tensor([40.0, -40.0, 40.0, -40.0]))
        objective = Objective(linear, CrossEntropy())
        assert not torch.isfinite(objective.losses(objective.params, broken.batch())).all()
        assert LeadingExamples(objective, broken, 10).batches_for(0.5) == 40

    def test_of_moments_and_of_tuples(self, bayesian_objective, variational_objective, classification) -> None:
        for objective in (bayesian_objective, variational_objective):
            leading = LeadingExamples(objective, classification, 4)
            assert sorted(leading.order.tolist()) == list(range(24))
            assert 1 <= leading.batches_for(0.5) <= 4
            first, second = leading.batches(3)[1:]
            assert torch.equal(first.inputs, classification.inputs[leading.order[4:8]])
            assert torch.equal(second.targets, classification.targets[leading.order[8:12]])


class TestPartOfAnOperator:
    @pytest.mark.parametrize("make", OPERATORS)
    def test_is_the_sum_over_the_leading_examples(self, confident, make) -> None:
        """Over the same n, with the whole regulariser."""
        objective, data = confident
        whole = make(objective, data, batch_size=10)
        part = whole.within(0.01)
        count = round(part.share * 400)
        assert 10 <= count <= 200
        chosen = data.select(LeadingExamples(objective, data, 10).order[:count])
        regulariser = whole.regulariser.dense()
        reference = count / 400 * (make(objective, chosen).dense() - regulariser) + regulariser
        torch.testing.assert_close(part.dense(), reference, rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize("make", OPERATORS)
    @pytest.mark.parametrize("error", [0.1, 0.01, 1e-3])
    def test_is_off_by_about_the_error(self, confident, make, error) -> None:
        objective, data = confident
        whole = make(objective, data, batch_size=10)
        part = whole.within(error)
        assert part.share < 0.5
        matrix = whole.dense()
        assert torch.linalg.matrix_norm(matrix - part.dense(), 2) < 3 * error * torch.linalg.matrix_norm(matrix, 2)

    def test_keeps_its_own_linearisations(self, confident) -> None:
        """Traced and kept products of the part and of the whole do not meet."""
        objective, data = confident
        whole = GaussNewtonOperator(objective, data, batch_size=10)
        part = whole.within(0.01)
        vectors = torch.randn(whole.size, 32, dtype=torch.float64)
        fresh, fresh_part = whole @ vectors, part @ vectors
        for _ in range(40):
            whole @ vectors, part @ vectors
        assert whole.kept_bytes > 0
        torch.testing.assert_close(whole @ vectors, fresh)
        torch.testing.assert_close(part @ vectors, fresh_part)

    def test_damping_and_coordinates_stay(self, confident) -> None:
        objective, data = confident
        operator = GaussNewtonOperator(objective, data, batch_size=10)
        matrix = operator.within(0.01).dense()
        metric = torch.linspace(1, 2, operator.size, dtype=torch.float64)
        damped = (operator + metric).within(0.01)
        assert damped.share == operator.within(0.01).share < 0.5
        torch.testing.assert_close(damped.dense(), matrix + torch.diag(metric))
        scale = metric.rsqrt()
        whitened = WhitenedOperator(operator, metric).within(0.01)
        assert whitened.share < 0.5
        torch.testing.assert_close(whitened.dense(), scale.unsqueeze(1) * matrix * scale)

    def test_is_the_whole_where_all_examples_carry_alike(self, confident) -> None:
        """Squared error: every Lambda_i is the same."""
        objective, data = confident
        network = objective.network
        outputs = network(data.inputs).detach()
        regression = Objective(network, GaussianNoise(1.0))
        operator = GaussNewtonOperator(regression, Dataset(data.inputs, outputs, data.ids), batch_size=10)
        assert operator.within(0.2) is operator
        assert operator.within(0.6).share < 0.5

    def test_is_the_whole_where_there_are_few_batches(self, confident) -> None:
        objective, data = confident
        operator = HessianOperator(objective, data, batch_size=301)
        assert operator.within(0.5) is operator
        assert operator.share == 1
        assert HessianOperator(objective, data, batch_size=300).within(0.5).share == 0.75  # one batch is a part

    def test_is_the_whole_where_an_output_belongs_to_no_example(self, confident) -> None:
        """A temperature that the network returns beside the logits."""
        _, data = confident

        class Tempered(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.linear = nn.Linear(4, 3).double()
                self.temperature = nn.Parameter(torch.tensor(2.0).double())

            def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
                return self.linear(inputs), self.temperature

        def losses(outputs: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
            return nn.functional.cross_entropy(outputs[0] / outputs[1], targets, reduction="none")

        operator = HessianOperator(Objective(Tempered(), losses), data, batch_size=10)
        assert operator.within(0.5) is operator

    def test_other_operators_know_none(self) -> None:
        operator = DenseOperator(torch.eye(3)) + 1.0
        assert operator.within(0.5) is operator


class StandsIn(LinearOperator):
    """A matrix that names another one as nearly itself, however small the error may be, and counts its products."""

    def __init__(self, matrix: Tensor, instead: Tensor) -> None:
        super().__init__(len(matrix), matrix.dtype, matrix.device)
        self.matrix, self.instead = matrix, DenseOperator(instead)
        self.products = 0

    def _product(self, vectors: Tensor) -> Tensor:
        self.products += 1
        return self.matrix @ vectors

    def within(self, error: float) -> LinearOperator:
        return self.instead


class TestConjugateGradients:
    @pytest.mark.parametrize("make", OPERATORS)
    @pytest.mark.parametrize("tolerance", [1e-4, 1e-9])
    def test_solve_the_whole_system(self, confident, make, tolerance) -> None:
        objective, data = confident
        damping = 0.5
        operator = make(objective, data, batch_size=10) + damping
        rhs = torch.randn(operator.size, 3, dtype=torch.float64)
        solution = solve(operator, rhs, ConjugateGradients(tolerance=tolerance))
        residual = (rhs - operator.dense() @ solution.value).norm(dim=0) / rhs.norm(dim=0)
        torch.testing.assert_close(solution.residual, residual, rtol=1e-3, atol=1e-12)
        assert residual.max() <= tolerance
        assert solution.converged

    @pytest.mark.parametrize(("damping", "at_most"), [(0.5, 0.4), (0.01, 0.7)])
    def test_at_a_fraction_of_the_work(self, confident, monkeypatch: pytest.MonkeyPatch, damping, at_most) -> None:
        """Also at a small damping, where examples left out matter more and a restart finds that out."""
        objective, data = confident

        def solved():
            operator = GaussNewtonOperator(objective, data, batch_size=10) + damping
            rhs = torch.randn(operator.size, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
            return solve(operator, rhs, ConjugateGradients(tolerance=1e-3))

        relaxed = solved()
        monkeypatch.setattr(module, "RELAXATION", 0.0)
        whole = solved()
        assert whole.products == 2 * (whole.iterations + 1)
        assert relaxed.products < at_most * whole.products
        assert relaxed.residual.max() <= 1e-3

    @pytest.mark.parametrize(
        "instead",
        [
            pytest.param(lambda matrix: 5 * matrix, id="far off"),
            pytest.param(lambda matrix: 0.05 * matrix, id="so far off that it diverges"),
            pytest.param(lambda matrix: matrix - 1.5 * torch.eye(40).double(), id="indefinite"),
        ],
    )
    def test_whole_products_repair_what_a_wrong_part_did(
        self, random_matrix: Callable[..., Tensor], instead: Callable[[Tensor], Tensor]
    ) -> None:
        matrix = random_matrix(torch.linspace(1, 10, 40))
        operator = StandsIn(matrix, instead(matrix))
        rhs = torch.randn(40, 2, dtype=torch.float64)
        solution = solve(operator, rhs, ConjugateGradients(tolerance=1e-8))
        assert solution.converged
        torch.testing.assert_close(solution.value, torch.linalg.solve(matrix, rhs), rtol=1e-6, atol=1e-8)

    def test_negative_curvature_is_not_hidden_by_the_part(self, random_matrix: Callable[..., Tensor]) -> None:
        matrix = random_matrix(torch.cat([torch.tensor([-2.0]), torch.linspace(1, 10, 39)]))
        operator = StandsIn(matrix, matrix + 3 * torch.eye(40).double())
        with pytest.raises(
            IndefiniteCurvatureError, match="conjugate gradients: the curvature is indefinite"
        ) as caught:
            solve(operator, torch.randn(40, dtype=torch.float64), ConjugateGradients(tolerance=1e-8))
        assert caught.value.smallest_eigenvalue == pytest.approx(-2, rel=1e-2)

    def test_nothing_is_gained_by_restarting_for_ever(self, random_matrix: Callable[..., Tensor]) -> None:
        """In single precision an impossible tolerance ends where rounding does, with what was reached."""
        matrix = random_matrix(torch.linspace(1, 10, 40)).float()
        operator = StandsIn(matrix, matrix)
        with pytest.warns(match="stopped at relative residual"):
            solution = solve(operator, torch.randn(40, 2), ConjugateGradients(tolerance=1e-12))
        assert float(solution.residual.max()) < 1e-6
        assert operator.products < 20
