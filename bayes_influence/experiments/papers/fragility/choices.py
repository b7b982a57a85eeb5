"""The one place of the study's switches: each choice of the published code by name, and what is right instead."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace

from bayes_influence.experiments.store.settings import Settings

MODES = ("corrected", "as-published")


@dataclass(frozen=True)
class Choices(Settings):
    """How estimate and truth are computed; as made, everything is right, and `AS_PUBLISHED` is what was published.

    A choice is a value here and one strategy at one point of the pipeline (`protocol`, `published_code`).

    Attributes:
        points: Training examples of largest loss that are removed one at a time. The paper says 40, its code takes 25.
        signed: Whether the correlation keeps its sign. Published: its absolute value is drawn.
        double_precision: Whether networks, Hessians and solves are float64. Published: float32.
        regulariser_in_hessian: Whether the Hessian is that of the trained objective. Published: of the cross-entropy
            alone, which in a softmax layer is exactly singular.
        damped: Whether a Hessian that is not positive definite is damped. Published: inverted as it is.
        biases: Whether the estimate is taken in all parameters of the last layer. Published: in its weight; the bias is
            held, or even left out of the network, by the series.
        last_layer_refits: Whether refits move what the estimate is about. Published: all layers.
        exact_refits: Whether a regularised last layer is refitted to its minimum. Published: 7500 steps of Adam.
        control: Whether a removal's effect is the difference to a refit that removes nothing. Published: to the fit.
        fixed_mean: Whether 1/n stays where an example goes. Published: the mean over those that remain.
        swa_from_average: Whether refits of an average start there. Published: at the last iterate, averaging anew.
        one_activation: Whether the Bayesian network has the others' activation. Published: tanh where they have SELU.
        one_objective: Whether the Bayesian network is trained, linearised, refitted and tested by one objective.
            Published: a loss whose terms are weighted by powers of ten found in the first batch, another loss in the
            estimate (no KL, no biases, 0.001 added to the Hessian), and a test loss with a second softmax.
        by_id: Whether rankings name examples. Published, for networks in minibatches: positions in a loader that
            shuffles anew at every pass.
        solved: Whether (H + D)x = g is solved. Published, for image networks: LiSSA with scale 10 and damping .01, its
            iterates summed for the small network, its steps ended early for the others.
        evaluation_mode: Whether gradients are taken without dropout. Published: with it.
        working_rate: Whether refits by training have a rate that moves them. Published, on MNIST: 1e-8.
        removal_sign: Whether an estimate is the effect of a removal. Published, for the small network: its opposite.
    """

    points: int = 40
    signed: bool = True
    double_precision: bool = True
    regulariser_in_hessian: bool = True
    damped: bool = True
    biases: bool = True
    last_layer_refits: bool = True
    exact_refits: bool = True
    control: bool = True
    fixed_mean: bool = True
    swa_from_average: bool = True
    one_activation: bool = True
    one_objective: bool = True
    by_id: bool = True
    solved: bool = True
    evaluation_mode: bool = True
    working_rate: bool = True
    removal_sign: bool = True

    def __post_init__(self) -> None:
        self.check_at_least(points=3)

    @property
    def published(self) -> tuple[str, ...]:
        """Names of the choices that are as published."""
        return tuple(one.name for one in fields(self) if getattr(self, one.name) != getattr(CORRECTED, one.name))

    def correcting(self, *names: str) -> Choices:
        """The same with these choices put right.

        Raises:
            ValueError: If a name is no choice.
        """
        known = asdict(CORRECTED)
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ValueError(f"unknown choice {unknown[0]!r}; known: {', '.join(known)}")
        return replace(self, **{name: known[name] for name in names})


CORRECTED = Choices()
"""Everything right."""

AS_PUBLISHED = Choices(25, *[False] * (len(fields(Choices)) - 1))
"""Everything as the authors' code has it."""


def choices_of(mode: str) -> Choices:
    """The choices that a mode stands for.

    Raises:
        ValueError: If there is no such mode.
    """
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}; known: {', '.join(MODES)}")
    return CORRECTED if mode == "corrected" else AS_PUBLISHED
