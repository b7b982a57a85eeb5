"""`InfluenceScores`: what an estimate says, what it means, and how far its arithmetic can be trusted."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from html import escape
from pathlib import Path
from typing import Literal

import pandas as pd
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bayes_influence.arguments import check_count
from bayes_influence.data.appearance import Decode, appearances
from bayes_influence.data.dataset import Dataset
from bayes_influence.data.files import checked_place, replacing
from bayes_influence.data.identities import example_ids
from bayes_influence.data.sealed import UNSEALED, DamagedFileError, seal_file, sealed_file_header
from bayes_influence.influence.parquet import write_parquet
from bayes_influence.influence.score_format import FORMAT
from bayes_influence.influence.shown import KINDS, Shown, ShownExample, ShownTest, both_ends

SHOWN_TESTS, SHOWN_EXAMPLES = 10, 3
"""Test examples that a notebook shows, and training examples at both ends of each."""

SHOWN_LETTERS = 160
"""Of the parameters' names, in a line that stands for the scores."""

OTHER_FORMATS = {".parquet": "to_parquet(path)", ".csv": "to_frame().to_csv(path)"}
"""Names that would promise another format, with what writes it."""

DRIFT_TESTS = 16
"""Test examples, the first ones, that `typical_drift` looks at."""

TENSORS = ("values", "train_ids", "test_ids", "residual_norms", "gradient_norms", "drift")
"""The tensors of a score file."""


@dataclass(frozen=True, eq=False, repr=False)
class InfluenceScores:
    """Influence of every training example on every test measurement.

    Attributes:
        values: (n_test, n_train). Koh & Liang's I_up,loss = -g_t' (H + D)^-1 g_i: the derivative of the measurement
            with respect to the weight of example i, in units of the measurement.
        train_ids: (n_train,) dataset ids of the columns.
        test_ids: (n_test,) dataset ids of the rows.
        measurement: What was measured on the test examples, e.g. "loss".
        parameters: What it is taken in, and what is left out.
        curvature: Which matrix stands for H.
        damping: What D is.
        solver: How the system was solved.
        converged: Whether every solve reached its tolerance.
        smallest_eigenvalue: lambda_min(H + D), None where the solver does not know it.
        largest_eigenvalue: lambda_max(H + D), likewise.
        residual_norms: (n_test,) ||g_t - A y_t|| that the solver left.
        gradient_norms: (n_train,) ||g_i||, None where gradients were never formed.
        stationarity: ||grad J|| where the objective stands: 0 at a minimum, which an estimate takes for granted.
        drift: (n_test,) -g_t' (H + D)^-1 grad J: the change of the measurement that a Newton step to the minimum would
            bring with nothing removed.
        regulariser_examples: The n of the regulariser KL(q || p) / n where that is another than the number of training
            examples, so that the objective is no ELBO of theirs.
        examples: The training and the test examples themselves, for `show`; not saved.
    """

    values: Float[Tensor, "t n"]
    train_ids: Int[Tensor, " n"]
    test_ids: Int[Tensor, " t"]
    measurement: str = "loss"
    parameters: str = ""
    curvature: str = "hessian"
    damping: str = "none"
    solver: str = "cholesky"
    converged: bool = True
    smallest_eigenvalue: float | None = None
    largest_eigenvalue: float | None = None
    residual_norms: Float[Tensor, " t"] | None = None
    gradient_norms: Float[Tensor, " n"] | None = None
    stationarity: float | None = None
    drift: Float[Tensor, " t"] | None = None
    regulariser_examples: int | None = None
    examples: tuple[Dataset, Dataset] | None = None

    def __repr__(self) -> str:
        tests, examples = self.values.shape
        return (
            f"InfluenceScores({examples} training on {tests} test examples, measured by {self.measurement}"
            f"{self.parameters and f', in {_shortened(self.parameters)}'}; "
            f"{self.curvature}, damping {self.damping}, {self.solver}, {'' if self.converged else 'not '}converged"
            f"{self._standing()})"
        )

    def _standing(self) -> str:
        """What the estimate stands on, in a few words."""
        stated = self.regulariser_examples
        counted = "" if stated is None else f"; no ELBO of these examples: its KL is divided by {stated}"
        if self.stationarity is None or self.drift is None:
            return counted
        return counted + (
            f"; gradient norm of J {self.stationarity:.1e}, a step to its minimum moves the {self.measurement} "
            f"{self.typical_drift:.2g} times as much as a removal"
        )

    def _repr_html_(self) -> str:
        """The most helpful and most harmful training examples of the first test examples, as a notebook shows it."""
        rows = []
        for test_id, removal in list(zip(self.test_ids.tolist(), self.removal, strict=True))[:SHOWN_TESTS]:
            ends = both_ends(removal, SHOWN_EXAMPLES)
            cells = [
                ", ".join(f"{int(self.train_ids[row])} ({float(removal[row]):+.2e})" for row in end) for end in ends
            ]
            rows.append(f"<tr><td>{test_id}</td><td>{cells[0]}</td><td>{cells[1]}</td></tr>")
        more = len(self.test_ids) - len(rows)
        rest = f"<p>and {more} test examples more</p>" if more else ""
        return (
            f"<p>{escape(repr(self))}</p><table><tr><th>test id</th><th>most helpful: id (change of the "
            f"{escape(self.measurement)} without it)</th><th>most harmful</th></tr>{''.join(rows)}</table>{rest}"
        )

    @property
    def error(self) -> Float[Tensor, "t n"] | None:
        """Bound on the error of `values` that the solver's residuals leave: ||r_t|| ||g_i|| / lambda_min(H + D).

        |y_t'g_i - g_t'A^-1 g_i| = |r_t'A^-1 g_i|. None where lambda_min or a norm is not known, or A is indefinite.
        """
        smallest = self.smallest_eigenvalue
        if self.residual_norms is None or self.gradient_norms is None or smallest is None or smallest <= 0:
            return None
        return torch.outer(self.residual_norms, self.gradient_norms) / smallest

    @property
    def removal(self) -> Float[Tensor, "t n"]:
        """Predicted change of the measurement when the example is removed: +1/n g_t' (H + D)^-1 g_i.

        Positive: without the example the test loss goes up, so the example was helpful.
        """
        return -self.values / len(self.train_ids)

    @property
    def relative_drift(self) -> Float[Tensor, " t"]:
        """|drift| over the root mean square of the removal effects: from about 1 on, the fit is no minimum to speak of.

        Raises:
            ValueError: If the estimate does not know its drift.
        """
        return self._relative_drift(len(self.test_ids))

    @property
    def typical_drift(self) -> float:
        """The median relative drift of the first `DRIFT_TESTS` test examples, so that a large file is not read whole.

        Raises:
            ValueError: If the estimate does not know its drift.
        """
        return float(self._relative_drift(DRIFT_TESTS).median())

    def _relative_drift(self, tests: int) -> Float[Tensor, " some"]:
        if self.drift is None:
            raise ValueError(f"scores by {self.curvature} do not know how far their objective is from a minimum")
        drift = self.drift[:tests]
        typical = self.values[:tests].square().mean(dim=1).sqrt() / len(self.train_ids)
        return torch.where(drift == 0, torch.zeros_like(drift), drift.abs() / typical)

    @property
    def condition_number(self) -> float | None:
        """lambda_max / lambda_min of H + D where both are known."""
        if self.smallest_eigenvalue is None or self.largest_eigenvalue is None:
            return None
        return self.largest_eigenvalue / self.smallest_eigenvalue

    def top(
        self, k: int, test_id: int | None = None, by: Literal["magnitude", "helpful", "harmful"] = "magnitude"
    ) -> Int[Tensor, " k"]:
        """Ids of the k training examples with the largest removal effect on one test example.

        Args:
            k: How many.
            test_id: Which test example; may be left out when there is one.
            by: `"magnitude"`; `"helpful"`, the most positive removal effects; `"harmful"`, the most negative.

        Raises:
            TypeError: If the test id is not a whole number.
            ValueError: If k, the test id or `by` is out of range, or several test examples have this id.
        """
        row = self.removal[self._row(test_id)]
        if not 1 <= k <= len(row):
            raise ValueError(f"k must lie in 1..{len(row)}, got {k}")
        keys = {"magnitude": row.abs(), "helpful": row, "harmful": -row}
        if by not in keys:
            raise ValueError(f"by must be one of {', '.join(keys)}, got {by!r}")
        order = torch.argsort(keys[by], descending=True, stable=True)
        return self.train_ids[order[:k].to(self.train_ids.device)]

    def _row(self, test_id: int | None) -> int:
        if test_id is None:
            if len(self.test_ids) != 1:
                raise ValueError(f"test_id is needed: there are {len(self.test_ids)} test examples")
            return 0
        wanted = example_ids(test_id)
        if len(wanted) != 1:
            raise ValueError(f"test_id must be one id, got {len(wanted)}")
        found = (self.test_ids == wanted.to(self.test_ids.device)).nonzero()
        if len(found) == 0:
            raise ValueError(f"no test example has id {int(wanted)}; known: {self.test_ids.tolist()[:10]}")
        if len(found) > 1:
            raise ValueError(f"{len(found)} test examples have id {int(wanted)}; give each an id of its own")
        return int(found[0, 0])

    def show(
        self,
        k: int = 5,
        *,
        tests: int | Iterable[int] | None = None,
        train: Dataset | None = None,
        test: Dataset | None = None,
        decode: Decode | None = None,
    ) -> Shown:
        """The k most helpful and the k most harmful training examples of every test example, as a person sees them.

        Pictures, texts or rows, with ids; printed it is a text, in a notebook a page, and `save` writes either or a
        figure.

        Args:
            k: How many at each end; where there are no 2 k, all that there are, each once, by the sign of its effect.
            tests: Which test examples, by id; the first `SHOWN_TESTS` when not given.
            train: The training examples, where the scores were loaded from a file.
            test: The test examples, likewise.
            decode: Token ids to text, as a tokenizer's `decode`.

        Raises:
            TypeError: If k is no whole number.
            ValueError: If k is below 1, a test example is unknown, or the examples are not at hand.
        """
        both = (train, test) if train is not None and test is not None else self.examples
        if both is None:
            raise ValueError("scores from a file do not hold the examples; pass them, show(k, train=..., test=...)")
        ids = self.test_ids[:SHOWN_TESTS] if tests is None else example_ids(tests)
        check_count(k=k)
        shown = [self._shown(int(one), k, *both, decode) for one in ids]
        count = len(self.train_ids)
        fewer = "" if 2 * k <= count else f"; all {count} training examples, each once, {k} at each end were asked for"
        return Shown(shown, self.measurement, f"{self!r}{fewer}")

    def _shown(self, test_id: int, k: int, train: Dataset, test: Dataset, decode: Decode | None) -> ShownTest:
        removal, ends = self.removal[self._row(test_id)], {}
        for kind, ids in self.ends(k, test_id).items():
            looks = appearances(train, ids, decode)
            changes = [float(removal[self.train_ids == one]) for one in ids]
            ends[kind] = [ShownExample(*one) for one in zip(ids, changes, looks, strict=True)]
        return ShownTest(test_id, appearances(test, [test_id], decode, train)[0], **ends)

    def ends(self, k: int, test_id: int | None = None) -> dict[str, list[int]]:
        """By kind, "helpful" and "harmful", ids of the k strongest training examples for one test example.

        Args:
            k: How many of each kind; where there are no 2 k, all that there are, each once, by the sign of its effect.
            test_id: Which test example; may be left out when there is one.

        Raises:
            TypeError: If k is no whole number.
            ValueError: If k is below 1, or as `top` for the test example.
        """
        check_count(k=k)
        found = both_ends(self.removal[self._row(test_id)], k)
        return dict(zip(KINDS, (self.train_ids[end.to(self.train_ids.device)].tolist() for end in found), strict=True))

    def to_frame(self) -> pd.DataFrame:
        """One row per (test, training) pair: test_id, train_id, value, removal, and error where it is known."""
        tests, examples = self.values.shape
        columns = {
            "test_id": self.test_ids.cpu().repeat_interleave(examples).numpy(),
            "train_id": self.train_ids.cpu().repeat(tests).numpy(),
            "value": self.values.cpu().reshape(-1).numpy(),
            "removal": self.removal.cpu().reshape(-1).numpy(),
        }
        error = self.error
        if error is not None:
            columns["error"] = error.cpu().reshape(-1).numpy()
        return pd.DataFrame(columns)

    def save(self, path: str | Path) -> None:
        """Writes a safetensors file with a checksum, whole: to a temporary file first, then renamed.

        Raises:
            OSError: If it cannot be written; what was there before is then as it was.
            TypeError: If this is no path.
            ValueError: If something stands there that is no file, or the name is that of a table.
        """
        target = checked_place(path, "scores")
        if target.suffix in OTHER_FORMATS:
            raise ValueError(
                f"save writes a safetensors file, not {target.suffix[1:]}; take {OTHER_FORMATS[target.suffix]}, or a "
                f"name that ends in .safetensors"
            )
        tensors = {name: getattr(self, name) for name in TENSORS}
        contents = {name: value.detach().cpu().contiguous() for name, value in tensors.items() if value is not None}
        with replacing(target) as partial:
            try:
                save_file(contents, partial, metadata={"format": FORMAT, "sha256": UNSEALED, "notes": self.notes()})
            except SafetensorError as error:
                raise OSError(
                    f"scores cannot be written to {target} ({error}); choose a folder that exists and has room"
                ) from error
            seal_file(partial)

    def to_parquet(self, path: str | Path) -> None:
        """Writes `to_frame` as a Parquet file, whole, a row group per test example, with what the scores are in it.

        Raises:
            ImportError: If pyarrow is not installed.
            OSError: If it cannot be written; what was there before is then as it was.
        """
        write_parquet(self, path)

    def notes(self) -> str:
        """Everything but the tensors, as JSON."""
        return json.dumps(
            {one.name: getattr(self, one.name) for one in fields(self) if one.name not in (*TENSORS, "examples")}
        )

    @classmethod
    def load(cls, path: str | Path) -> InfluenceScores:
        """Reads what `save` wrote. The file is read once to check it, then memory-mapped.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is damaged or is no score file.
        """
        if not Path(path).exists():
            raise FileNotFoundError(f"no score file at {path}")
        try:
            metadata = sealed_file_header(Path(path))
        except DamagedFileError as error:
            raise ValueError(f"{path} cannot be used: {error}; compute the scores again") from error
        if metadata.get("format") != FORMAT:
            raise ValueError(f"{path} is no score file of this version, its format is {metadata.get('format')!r}")
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        return cls(**tensors, **json.loads(metadata["notes"]))


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN_LETTERS else f"{text[: SHOWN_LETTERS - 3]}..."
