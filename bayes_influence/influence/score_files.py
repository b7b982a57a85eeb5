"""Scores for all pairs, in memory or streamed to a score file that a killed run resumes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from bayes_influence.influence.response import Response
from bayes_influence.influence.scores import FORMAT, InfluenceScores
from bayes_influence.influence.scoring import ScoreBlocks

STORED = {torch.float32: ("F32", "<f4"), torch.float64: ("F64", "<f8"), torch.int64: ("I64", "<i8")}
"""A dtype's name in a safetensors header, and in numpy."""


@dataclass(frozen=True, eq=False)
class SolvedTests:
    """y_t = A^-1 grad m_t for every test measurement.

    Attributes:
        value: (P, t).
        residual_norms: (t,) ||grad m_t - A y_t||.
        notes: What the scores will say about them.
    """

    value: Float[Tensor, "P t"]
    residual_norms: Float[Tensor, " t"]
    notes: dict[str, Any]


@dataclass(frozen=True, eq=False)
class ScoreRequest:
    """What is to be scored: the gradients of t test measurements against all training examples.

    Attributes:
        response: The damped curvature at the fit.
        blocks: How training examples are scored.
        gradients: (t, P) grad m_t.
        test_ids: (t,).
        measurement: What m is called.
        progress: Whether to show a progress bar.
    """

    response: Response
    blocks: ScoreBlocks
    gradients: Float[Tensor, "t P"]
    test_ids: Int[Tensor, " t"]
    measurement: str
    progress: bool = False

    def in_memory(self) -> InfluenceScores:
        """All scores at once. Memory t n."""
        solved = self.solve()
        train_ids = self.response.problem.data.ids
        values = self.gradients.new_empty(len(self.test_ids), len(train_ids))
        norms = self.gradients.new_empty(len(train_ids)) if self.blocks.gives_norms else None
        self._fill(solved, values, norms, 0)
        return InfluenceScores(
            values, train_ids, self.test_ids, residual_norms=solved.residual_norms, gradient_norms=norms, **solved.notes
        )

    def to_file(self, path: str | Path) -> InfluenceScores:
        """Scores straight into a file of `InfluenceScores.save`'s format, memory-mapped; a killed run resumes.

        Until the file is whole it is called `.partial`; the solved systems and the number of examples done stand
        beside it, so that a killed run loses at most one block. Memory: one block of scores.

        Raises:
            ValueError: If an unfinished run of something else is in the way.
        """
        target = Path(path)
        kept = _Workplace(target, self._fingerprint())
        solved = kept.read_solved()
        if solved is None:
            solved = self.solve()
            kept.write_solved(solved)
        tensors = kept.open(self._layout(), {"format": FORMAT, "notes": json.dumps(solved.notes)})
        if kept.done() == 0:
            tensors["train_ids"].copy_(self.response.problem.data.ids)
            tensors["test_ids"].copy_(self.test_ids)
            tensors["residual_norms"].copy_(solved.residual_norms)
        self._fill(solved, tensors["values"], tensors.get("gradient_norms"), kept.done(), kept)
        kept.finish()
        return InfluenceScores.load(target)

    def solve(self) -> SolvedTests:
        """Solves for every test measurement."""
        solution = self.response.solve(self.gradients.T)
        notes = {
            "measurement": self.measurement,
            "curvature": self.response.curvature.name,
            "damping": repr(self.response.damping),
            "solver": solution.method,
            "converged": solution.converged,
            "smallest_eigenvalue": solution.smallest_eigenvalue,
            "largest_eigenvalue": solution.largest_eigenvalue,
        }
        return SolvedTests(solution.value, solution.residual * self.gradients.norm(dim=1), notes)

    def _fill(
        self, solved: SolvedTests, values: Tensor, norms: Tensor | None, done: int, kept: _Workplace | None = None
    ) -> None:
        n = len(self.response.problem.data)
        hidden = None if self.progress else True
        with tqdm(total=n, initial=done, desc="scores", unit="example", disable=hidden) as bar:
            for block in self.blocks(solved.value, start=done):
                stop = block.start + block.products.shape[1]
                values[:, block.start : stop] = -block.products
                if norms is not None and block.norms is not None:
                    norms[block.start : stop] = block.norms
                if kept is not None:
                    kept.mark(stop)
                bar.update(stop - block.start)

    def _layout(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        t, n, dtype = len(self.test_ids), len(self.response.problem.data), self.gradients.dtype
        layout: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
            "values": (dtype, (t, n)),
            "train_ids": (torch.int64, (n,)),
            "test_ids": (torch.int64, (t,)),
            "residual_norms": (dtype, (t,)),
        }
        return layout | ({"gradient_norms": (dtype, (n,))} if self.blocks.gives_norms else {})

    def _fingerprint(self) -> str:
        problem = self.response.problem
        ways = f"{self.response.curvature} {self.response.solver} {self.blocks.scoring} {self.measurement}"
        digest = hashlib.sha256(ways.encode())
        damping = self.response.damping.diagonal(problem.reduced)
        for tensor in (problem.theta, damping, problem.data.ids, self.test_ids, self.gradients):
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


class _Workplace:
    """The files of an unfinished run: the partial score file, the solved systems, and how far it came."""

    def __init__(self, target: Path, fingerprint: str) -> None:
        self.target, self.fingerprint = target, fingerprint
        self.partial = target.with_name(target.name + ".partial")
        self.solved = target.with_name(target.name + ".solved")
        self.count = target.with_name(target.name + ".done")
        self._map: np.memmap[Any, np.dtype[np.uint8]] | None = None

    def read_solved(self) -> SolvedTests | None:
        if not self.solved.exists():
            return None
        with safe_open(self.solved, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("fingerprint") != self.fingerprint:
                raise ValueError(
                    f"{self.solved} belongs to an unfinished run of another fit, test set or damping; delete it, or "
                    f"stream to another path"
                )
            return SolvedTests(file.get_tensor("value"), file.get_tensor("norms"), json.loads(metadata["notes"]))

    def write_solved(self, solved: SolvedTests) -> None:
        self.count.unlink(missing_ok=True)
        temporary = self.solved.with_name(self.solved.name + ".new")
        tensors = {"value": solved.value.cpu().contiguous(), "norms": solved.residual_norms.cpu()}
        save_file(tensors, temporary, {"fingerprint": self.fingerprint, "notes": json.dumps(solved.notes)})
        temporary.replace(self.solved)

    def open(
        self, layout: dict[str, tuple[torch.dtype, tuple[int, ...]]], metadata: dict[str, str]
    ) -> dict[str, Tensor]:
        """The partial file's tensors, memory-mapped; the file is made anew where nothing in it counts yet."""
        header: dict[str, Any] = {"__metadata__": metadata}
        end = 0
        for name, (dtype, shape) in layout.items():
            start, end = end, end + int(np.prod(shape)) * dtype.itemsize
            header[name] = {"dtype": STORED[dtype][0], "shape": list(shape), "data_offsets": [start, end]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        prefix = len(text).to_bytes(8, "little") + text
        if self.done() == 0:
            with self.partial.open("wb") as file:
                file.write(prefix)
                file.truncate(len(prefix) + end)
        self._map = np.memmap(self.partial, dtype=np.uint8, mode="r+")
        body = self._map[len(prefix) :]
        return {
            name: torch.from_numpy(body[slice(*header[name]["data_offsets"])].view(STORED[dtype][1]).reshape(shape))
            for name, (dtype, shape) in layout.items()
        }

    def done(self) -> int:
        return int(self.count.read_text()) if self.count.exists() and self.partial.exists() else 0

    def mark(self, done: int) -> None:
        assert self._map is not None
        self._map.flush()
        temporary = self.count.with_name(self.count.name + ".new")
        temporary.write_text(str(done))
        temporary.replace(self.count)

    def finish(self) -> None:
        self.partial.replace(self.target)
        self.solved.unlink(missing_ok=True)
        self.count.unlink(missing_ok=True)
