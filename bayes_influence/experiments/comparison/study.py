"""What a study of regularisation schemes is: its settings, checked before any work, and its cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bayes_influence.data.tables import Rows
from bayes_influence.experiments.comparison.networks import (
    TOLERANCE,
    ComparedNetworks,
    check_removals,
    refit_schedule,
)
from bayes_influence.experiments.store.cells import cell_key
from bayes_influence.experiments.store.fingerprint import described_schemes
from bayes_influence.experiments.training.studied_networks import StudiedNetworks
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.scheme import Scheme
from bayes_influence.training.schemes import DEFAULT_SCHEMES, ensembles, find_schemes


@dataclass(frozen=True)
class Study(StudiedNetworks):
    """Influence estimates against leave-one-out retraining, for several schemes on one network and one test example.

    The protocol is that of Epifano et al. on Iris, corrected: one objective for training, estimate and truth; the
    regulariser in the Hessian; float64; signed statistics; truth by Newton's method, or with a control.

    Attributes:
        removals: Training examples of largest loss that are removed one at a time.
        schemes: Keys of `SCHEMES`.
        scheme_options: Numbers and words of the schemes that are to be others than their own, by field; each goes to
            all of the schemes that have it.
        refit_epochs: Steps of a refit where Newton's method does not apply; 1000 when not given, and fewer the more
            training examples there are beyond a thousand.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    removals: int = 40
    schemes: tuple[str, ...] = DEFAULT_SCHEMES
    scheme_options: dict[str, Any] = field(default_factory=dict)
    refit_epochs: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.resolved_schemes()
        self.check_at_least(refit_epochs=1)
        if isinstance(self.known(), Rows):
            check_removals(self.removals, self.n_train(), self.data_name)

    def resolved_schemes(self) -> list[Scheme]:
        """The schemes with this study's numbers."""
        asked = find_schemes(self.schemes, self.scheme_options)
        return [self.suited_scheme(scheme.name, scheme.own(self.scheme_options)) for scheme in asked]

    def configuration(self) -> dict[str, Any]:
        """What a result folder belongs to: the settings, with all that the schemes came to instead of what was said."""
        settings = {name: value for name, value in self.to_config().items() if name != "scheme_options"}
        return settings | {"resolved_schemes": described_schemes(self.resolved_schemes())}

    @property
    def groups(self) -> list[list[Scheme]]:
        """The schemes, grouped by the ensemble that they train in.

        Each is on its own where training is in minibatches, Bayesian ones, which take longest, first.
        """
        schemes = self.resolved_schemes()
        if self.full_batch:
            return ensembles(schemes)
        return [[scheme] for scheme in sorted(schemes, key=lambda scheme: not scheme.bayesian)]

    def to_config(self) -> dict[str, Any]:
        """As of all networks; the steps of a refit are said."""
        return super().to_config() | {"refit_epochs": self.refits.epochs}

    def cells(self, sizes: Sequence[tuple[int, int]] | None = None) -> dict[str, Study]:
        """One cell per network and group of schemes, each a study of its own, under the key that it is stored by.

        Args:
            sizes: (depth, width) of the networks, of MLPs; the study's own when not given.
        """
        found = {}
        for depth, width in sizes or [self.sizes]:
            size = {"depth": depth, "width": width} if self.network == "mlp" else {}
            for group in self.groups:
                names = tuple(scheme.name for scheme in group)
                options = {name: said for scheme in group for name, said in scheme.own(self.scheme_options).items()}
                cell = replace(self, **size, schemes=names, scheme_options=options)  # type: ignore[arg-type]
                found[cell_key(**size, schemes="_".join(names))] = cell
        return found

    @property
    def refits(self) -> Schedule:
        """Of refits by training."""
        return refit_schedule(self.refit_epochs, self.n_train())

    def compared(self) -> ComparedNetworks:
        """What is trained and removed, with the data, of a study of one cell.

        Raises:
            ValueError: If the test example is not resolved yet, or there are fewer training examples than are to be
                removed.
        """
        split, schemes = self.split(), self.resolved_schemes()
        return ComparedNetworks(
            schemes,
            self.builder(split.train),
            split.train,
            split.test,
            self.tested_id,
            self.seeds,
            self.schedule(bayesian=schemes[0].bayesian),
            self.parameters,
            self.removals,
            self.refits,
            self.sizes,
            TOLERANCE if self.full_batch or self.parameters == "last-layer" else None,
        )
