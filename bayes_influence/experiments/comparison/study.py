"""What a study of regularisation schemes is: its settings, checked before any work, and its cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bayes_influence.evaluation.agreement import MIN_POINTS
from bayes_influence.experiments.store.cells import cell_key
from bayes_influence.experiments.store.fingerprint import described_schemes
from bayes_influence.experiments.training.table_networks import TableNetworks
from bayes_influence.training.scheme import Scheme
from bayes_influence.training.schemes import DEFAULT_SCHEMES, ensembles, find_schemes


@dataclass(frozen=True)
class Study(TableNetworks):
    """Influence estimates against leave-one-out retraining, for several schemes on one network and one test example.

    The protocol is that of Epifano et al. on Iris, corrected: one objective for training, estimate and truth; the
    regulariser in the Hessian; float64; signed statistics; truth by Newton's method, or with a control.

    Attributes:
        removals: Training examples of largest loss that are removed one at a time.
        schemes: Keys of `SCHEMES`.
        scheme_options: Numbers and words of the schemes that are to be others than their own, by field; each goes to
            all of the schemes that have it.
        refit_epochs: Steps of a refit where Newton's method does not apply.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    removals: int = 40
    schemes: tuple[str, ...] = DEFAULT_SCHEMES
    scheme_options: dict[str, Any] = field(default_factory=dict)
    refit_epochs: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        self.resolved_schemes()
        self.check_at_least(refit_epochs=1)
        others = len(self.raw_data()) - 1
        if not MIN_POINTS <= self.removals <= others:
            raise ValueError(
                f"removals must lie in {MIN_POINTS}..{others} ({self.dataset} has {others} training examples beside "
                f"the test example), got {self.removals}"
            )

    def resolved_schemes(self) -> list[Scheme]:
        """The schemes with this study's numbers."""
        return find_schemes(self.schemes, self.scheme_options)

    def configuration(self) -> dict[str, Any]:
        """What a result folder belongs to: the settings, with all that the schemes came to instead of what was said."""
        settings = {name: value for name, value in self.to_config().items() if name != "scheme_options"}
        return settings | {"resolved_schemes": described_schemes(self.resolved_schemes())}

    @property
    def ensembles(self) -> list[list[Scheme]]:
        """The schemes, grouped by the ensemble that they train in."""
        return ensembles(self.resolved_schemes())

    def cells(self, sizes: Sequence[tuple[int, int]] | None = None) -> dict[str, Study]:
        """One cell per network and ensemble, each a study of its own, under the key that it is stored by.

        Args:
            sizes: (depth, width) of the networks; the study's own when not given.
        """
        found = {}
        for depth, width in sizes or [(self.depth, self.width)]:
            for group in self.ensembles:
                names = tuple(scheme.name for scheme in group)
                options = {name: said for scheme in group for name, said in scheme.own(self.scheme_options).items()}
                cell = replace(self, depth=depth, width=width, schemes=names, scheme_options=options)
                found[cell_key(depth=depth, width=width, schemes="_".join(names))] = cell
        return found
