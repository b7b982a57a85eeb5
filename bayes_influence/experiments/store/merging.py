"""Puts the cells of one study that several machines computed into one folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bayes_influence.data.files import write_whole
from bayes_influence.data.sealed import DamagedFileError
from bayes_influence.experiments.store.cells import decode_cell
from bayes_influence.experiments.store.folder import StudyFolder, differences
from bayes_influence.experiments.store.record import CELL_SUFFIX, CELLS, CONFIG, read_study

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Merged:
    """What a merge did.

    Attributes:
        folder: Where all cells are now.
        taken: Keys of the cells that were copied, sorted.
        there: Keys of those that the folder had already, byte for byte.
        keys: Of all cells that the folder holds now, sorted.
    """

    folder: Path
    taken: tuple[str, ...]
    there: tuple[str, ...]
    keys: tuple[str, ...]


def merge_studies(into: str | Path, parts: Sequence[str | Path]) -> Merged:
    """Copies the finished cells of a study's folders into one; the study, run there again, goes on with them.

    All is read and compared first: where one part cannot be taken, nothing is written. A new folder records the
    versions of the first part, and a warning says where those of another part, or of the folder, differ.

    Args:
        into: A folder of the same study, or a new one; it may hold cells already.
        parts: Folders of one configuration, which are only read.

    Raises:
        FileNotFoundError: If a part holds no study.
        ValueError: If no part is given, one holds nothing but other studies, configurations differ, a cell is damaged,
            or two folders hold different results of one cell.
        BusyError: If a study is at work in the folder.
        OSError: If it cannot be written.
    """
    into, folders = Path(into), [Path(part) for part in parts]
    if not folders:
        raise ValueError("no folder to take cells from was given")
    first = read_study(folders[0])
    for part in folders[1:]:
        record = read_study(part)
        _check_equal(folders[0], first["config"], part, record["config"])
        for name, old, new in differences(first["versions"], record["versions"]):
            logger.warning("%s was made with %s %s, and %s with %s", folders[0], name, old, part, new)
    if (into / CONFIG).exists():
        _check_equal(into, read_study(into)["config"], folders[0], first["config"])
    found = _cells(into) if (into / CELLS).is_dir() else {}
    there, taken = set[str](), dict[str, bytes]()
    for part in folders:
        own = _cells(part)
        if not own:
            _check_no_studies(part)
        for key, content in own.items():
            known = found.get(key, taken.get(key, content))
            if known != content:
                raise ValueError(
                    f"the cell {key} of {part} has another result than that of a folder before it; delete the one "
                    "that is wrong, or merge into a new folder"
                )
            if key in found:
                there.add(key)
            else:
                taken[key] = content
    folder = StudyFolder(into, first["config"], first["versions"])
    with folder.writing():
        for key, content in taken.items():
            write_whole(into / CELLS / f"{key}{CELL_SUFFIX}", content)
    return Merged(into, tuple(sorted(taken)), tuple(sorted(there)), tuple(folder.keys()))


def _check_no_studies(part: Path) -> None:
    """Refuses a folder without cells whose subfolders are the studies."""
    nested = sorted(path.parent.name for path in part.glob(f"*/{CONFIG}"))
    if nested:
        raise ValueError(
            f"{part} holds no cells of its own: the studies in it are {', '.join(nested)}. Merge them one by one, "
            f"{part / nested[0]} into a folder {nested[0]}"
        )


def _check_equal(one: Path, mine: Any, other: Path, yours: Any) -> None:
    apart = differences(mine, yours)
    if apart:
        listed = "; ".join(f"{key} is {json.dumps(old)} and {json.dumps(new)}" for key, old, new in apart)
        raise ValueError(f"{one} and {other} are of different configurations: {listed}. Merge folders of one study")


def _cells(folder: Path) -> dict[str, bytes]:
    """Content of every cell of a folder by its key, whole.

    Raises:
        ValueError: If one is damaged.
    """
    contents = {}
    for path in sorted((folder / CELLS).glob(f"*{CELL_SUFFIX}")):
        content = path.read_bytes()
        try:
            decode_cell(content)
        except DamagedFileError as error:
            raise ValueError(f"{path} is damaged ({error}); copy it again, or delete it") from error
        contents[path.name.removesuffix(CELL_SUFFIX)] = content
    return contents
