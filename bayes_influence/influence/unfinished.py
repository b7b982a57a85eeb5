"""A score file that is being written: what is on disk of it, and how a run that was killed finds its place again."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load, save
from torch import Tensor

from bayes_influence.data.files import write_whole
from bayes_influence.data.fingerprint import fingerprint
from bayes_influence.data.sealed import UNSEALED, DamagedFileError, seal, seal_file, sealed_header
from bayes_influence.influence.score_format import FORMAT

STORED = {torch.float32: ("F32", "<f4"), torch.float64: ("F64", "<f8"), torch.int64: ("I64", "<i8")}
"""A dtype's name in a safetensors header, and in numpy."""

Layout = dict[str, tuple[torch.dtype, tuple[int, ...]]]


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


class UnfinishedScores:
    """The files of an unfinished run, beside the score file that they become.

    `.unfinished` is the score file so far; `.solved` has the solved systems and the run's fingerprint, with a checksum;
    `.done` has a line for every block that is on disk, with a checksum of the block. What does not match its checksum
    counts as not done, from there on: a killed run, or a crash of the whole machine, costs the blocks that had not
    reached the disk.

    Args:
        target: The score file.
        fingerprint: Of everything that its scores depend on.
        otherwise: What a message says about an unfinished run with another fingerprint.
    """

    def __init__(self, target: Path, fingerprint: str, otherwise: str) -> None:
        self.target, self.fingerprint, self._otherwise = target, fingerprint, otherwise
        self.unfinished = target.with_name(target.name + ".unfinished")
        self.solved = target.with_name(target.name + ".solved")
        self.blocks = target.with_name(target.name + ".done")
        self.done = 0
        self._tensors: dict[str, Tensor] = {}
        self._map: np.memmap[Any, np.dtype[np.uint8]] | None = None

    def read_solved(self) -> SolvedTests | None:
        """The systems that an earlier run solved; None where there is none, or its file is damaged.

        Raises:
            ValueError: If the earlier run was of something else.
        """
        if not self.solved.exists():
            return None
        content = self.solved.read_bytes()
        try:
            kept = json.loads(sealed_header(content)["solved"][len(UNSEALED) :])
        except DamagedFileError:
            return None
        if kept["fingerprint"] != self.fingerprint:
            raise ValueError(
                f"an unfinished run is in the way, {self.solved}: {self._otherwise}; delete that file, or stream to "
                "another path"
            )
        tensors = load(content)
        return SolvedTests(tensors["value"], tensors["norms"], kept["notes"])

    def write_solved(self, solved: SolvedTests) -> None:
        """Begins a run: stores its solved systems, and forgets what another run has done."""
        self.blocks.unlink(missing_ok=True)
        text = json.dumps({"fingerprint": self.fingerprint, "notes": solved.notes})
        tensors = {"value": solved.value.cpu().contiguous(), "norms": solved.residual_norms.cpu()}
        write_whole(self.solved, seal(save(tensors, metadata={"solved": f"{UNSEALED} {text}"})))

    def open(self, layout: Layout, notes: dict[str, Any]) -> dict[str, Tensor]:
        """The score file's tensors, memory-mapped; `done` then says how many training examples are scored already.

        Args:
            layout: Dtype and shape of every tensor, in their order.
            notes: Everything but the tensors.

        Raises:
            OSError: If there is no room for the file.
        """
        text = json.dumps(notes)
        header: dict[str, Any] = {"__metadata__": {"format": FORMAT, "sha256": UNSEALED, "notes": text}}
        end = 0
        for name, (dtype, shape) in layout.items():
            start, end = end, end + int(np.prod(shape)) * dtype.itemsize
            header[name] = {"dtype": STORED[dtype][0], "shape": list(shape), "data_offsets": [start, end]}
        encoded = json.dumps(header).encode()
        encoded += b" " * (-len(encoded) % 8)
        prefix = len(encoded).to_bytes(8, "little") + encoded
        size = len(prefix) + end
        if not self.unfinished.exists() or self.unfinished.stat().st_size != size:
            self.blocks.unlink(missing_ok=True)
        with self.unfinished.open("r+b" if self.blocks.exists() else "wb") as file:
            file.write(prefix)
            file.truncate(size)
            # A full disk is an error here; in a memory-mapped file with holes it would end the process.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
        self._map = np.memmap(self.unfinished, dtype=np.uint8, mode="r+")
        body = self._map[len(prefix) :]
        self._tensors = {
            name: torch.from_numpy(body[slice(*header[name]["data_offsets"])].view(STORED[dtype][1]).reshape(shape))
            for name, (dtype, shape) in layout.items()
        }
        self.done = self._intact_blocks()
        return self._tensors

    def mark(self, stop: int) -> None:
        """The examples up to `stop` are scored: their block goes to disk, then a line that says so."""
        assert self._map is not None
        self._map.flush()
        with self.blocks.open("a") as file:
            file.write(json.dumps([stop, self._checksum(self.done, stop)]) + "\n")
        self.done = stop

    def finish(self) -> None:
        """The unfinished file becomes the score file, sealed, and the others go."""
        assert self._map is not None
        self._map.flush()
        seal_file(self.unfinished)
        self.unfinished.replace(self.target)
        self.solved.unlink(missing_ok=True)
        self.blocks.unlink(missing_ok=True)

    def _intact_blocks(self) -> int:
        """How many examples are in blocks on disk that are what was written; later lines are dropped."""
        if not self.blocks.exists():
            return 0
        done, good = 0, []
        for line in self.blocks.read_bytes().splitlines():
            try:
                stop, checksum = json.loads(line)
                if self._checksum(done, stop) != checksum:
                    break
            except (ValueError, TypeError):
                break
            done = stop
            good.append(line + b"\n")
        write_whole(self.blocks, b"".join(good))
        return done

    def _checksum(self, start: int, stop: int) -> str:
        """Over the scores of the training examples from `start` to `stop`, and their gradients' norms."""
        norms = self._tensors.get("gradient_norms")
        return fingerprint(
            run=self.fingerprint,
            block=(start, stop),
            values=self._tensors["values"][:, start:stop],
            norms=None if norms is None else norms[start:stop],
        )
