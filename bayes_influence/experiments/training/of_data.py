"""`OfData`: settings that name a data set, one of the catalogue or a file of the user's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bayes_influence.data.catalogue import file_of, find_known
from bayes_influence.data.files import named
from bayes_influence.data.known_set import KnownSet
from bayes_influence.data.reading import checksum
from bayes_influence.experiments.store.settings import Settings


@dataclass(frozen=True)
class OfData(Settings):
    """Settings that name a data set.

    Attributes:
        dataset: A key of `CATALOGUE`, a file or folder, or `module:function`; see `find_known`.
        target: Of a table in a file: the columns that are predicted.
        task: What is predicted, where the targets leave it open: "classification", "labels" or "regression".
        categorical: Of a table in a file: input columns that are categories although they look like numbers.
        missing: Of a table in a file: "refuse" or "impute".
        separator: Of a table in a CSV file.
        checksum: Of the file, once it was read: a stored run refuses one that changed.

    Raises:
        ValueError: If there is no such data set, or its file changed.
        FileNotFoundError: If the file is not there.
    """

    dataset: str = "iris"
    target: tuple[str, ...] = field(default=(), kw_only=True)
    task: str | None = field(default=None, kw_only=True)
    categorical: tuple[str, ...] = field(default=(), kw_only=True)
    missing: str = field(default="refuse", kw_only=True)
    separator: str = field(default=",", kw_only=True)
    checksum: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.known()
        found = self.found_data()["checksum"]
        if self.checksum is not None and found != self.checksum:
            raise ValueError(
                f"{self.dataset} changed: its SHA-256 starts with {found[:8]}, and with {self.checksum[:8]} when the "
                "run was made of it; bring the file back, or train anew in another folder"
            )

    def said_of_data(self) -> dict[str, Any]:
        """What is said beside the name, as `find_known` takes it."""
        return {name: getattr(self, name) for name in ("target", "task", "categorical", "missing", "separator")}

    def known(self) -> KnownSet:
        """The data set."""
        return find_known(self.dataset, **self.said_of_data())

    def found_data(self) -> dict[str, Any]:
        """The file's whole path and checksum; the name alone of a data set that is in no file."""
        path = file_of(self.dataset)
        return {
            "dataset": self.dataset if path is None else str(path.resolve()),
            "checksum": None if path is None else checksum(path),
        }

    @property
    def data_name(self) -> str:
        """What the data are called in titles and names of folders."""
        path = file_of(self.dataset)
        return self.dataset.replace(":", "-") if path is None else named(path).stem
