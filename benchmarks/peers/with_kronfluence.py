"""kronfluence 1.0: EK-FAC."""

from __future__ import annotations

import copy
import logging
import tempfile

import torch
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.task import Task
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from benchmarks.peers.outcome import Outcome
from benchmarks.peers.problem import Problem


class SummedCrossEntropy(Task):
    """Sums over the batch, as the library asks for: it divides by the number of examples itself."""

    def compute_train_loss(self, batch: tuple[Tensor, Tensor], model: nn.Module, sample: bool = False) -> Tensor:
        """Summed cross-entropy at the targets, or at targets drawn from the model."""
        inputs, targets = batch
        logits = model(inputs).flatten(0, -2)
        if sample:
            targets = torch.multinomial(logits.detach().softmax(-1), num_samples=1)
        return cross_entropy(logits, targets.flatten(), reduction="sum")

    def compute_measurement(self, batch: tuple[Tensor, Tensor], model: nn.Module) -> Tensor:
        """Summed cross-entropy at the targets."""
        return self.compute_train_loss(batch, model)


def empirical(problem: Problem) -> Outcome:
    """EK-FAC of the gradients at the observed targets, which needs no draws."""
    return _scores(problem, use_empirical_fisher=True)


def sampled(problem: Problem) -> Outcome:
    """EK-FAC of the gradients at one drawn target for each example, the library's default."""
    return _scores(problem, use_empirical_fisher=False)


def _scores(problem: Problem, use_empirical_fisher: bool) -> Outcome:
    dtype = problem.dtype
    task = SummedCrossEntropy()
    network = prepare_model(copy.deepcopy(problem.network), task)
    train = TensorDataset(problem.inputs, problem.targets)
    test = TensorDataset(problem.test_inputs, problem.test_targets)
    factors = FactorArguments(
        strategy="ekfac",
        use_empirical_fisher=use_empirical_fisher,
        activation_covariance_dtype=dtype,
        gradient_covariance_dtype=dtype,
        per_sample_gradient_dtype=dtype,
        lambda_dtype=dtype,
    )
    settings = ScoreArguments(
        damping_factor=problem.shift,
        score_dtype=dtype,
        per_sample_gradient_dtype=dtype,
        precondition_dtype=dtype,
    )
    with tempfile.TemporaryDirectory() as folder:
        analyzer = Analyzer(
            "benchmark", network, task, cpu=True, disable_tqdm=True, output_dir=folder, log_level=logging.ERROR
        )
        analyzer.fit_all_factors(
            "ekfac", train, per_device_batch_size=problem.batch_size, factor_args=factors, overwrite_output_dir=True
        )
        analyzer.compute_pairwise_scores(
            "scores",
            "ekfac",
            query_dataset=test,
            train_dataset=train,
            per_device_query_batch_size=len(test),
            per_device_train_batch_size=problem.batch_size,
            score_args=settings,
            overwrite_output_dir=True,
        )
        raw = analyzer.load_pairwise_scores("scores")["all_modules"]
    return Outcome(raw, raw / len(problem.targets))
