"""Files of the user's own, read whole: tables and arrays; and what tells one content from another."""

from __future__ import annotations

import hashlib
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

SEPARATORS = {";": "';'", "\t": "a tab", "|": "'|'"}
"""What else than a comma stands between columns, and what it is called."""

CHUNK = 1 << 20


def checksum(path: Path) -> str:
    """SHA-256 of a file's bytes; of a folder, of the names and sizes of the files in it.

    Raises:
        FileNotFoundError: If there is none.
    """
    digest = hashlib.sha256()
    if path.is_dir():
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            digest.update(f"{file.relative_to(path).as_posix()} {file.stat().st_size}\n".encode())
        return digest.hexdigest()
    _check_there(path)
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def read_table(path: Path, separator: str = ",") -> pd.DataFrame:
    """A CSV or Parquet file as a frame whose index numbers the rows from 0.

    Args:
        path: The file; `.parquet`, and CSV in UTF-8 otherwise.
        separator: What stands between the columns of a CSV file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is empty, of another encoding or with another separator, no table, has two columns of one
            name, or is a Parquet file where nothing is installed that reads one.
    """
    _check_there(path)
    frame = _parquet(path) if path.suffix == ".parquet" else _csv(path, separator)
    return frame.reset_index(drop=True).rename(columns=str)


def cells_of(path: Path, separator: str = ",") -> pd.DataFrame:
    """The same rows and columns of a CSV file with every cell as it is written: 0520, 55.50, TRUE.

    Args:
        path: A file that `read_table` has read.
        separator: What stands between its columns.
    """
    import pandas as pd

    cells = pd.read_csv(
        path, sep=separator, skipinitialspace=True, index_col=False, dtype=str, keep_default_na=False, na_filter=False
    )
    return cells.rename(columns=str)


def names_in(path: Path, separator: str = ",") -> list[str]:
    """The names of a CSV file's columns as its first line has them, where some may be empty.

    Args:
        path: The file.
        separator: What stands between its columns.
    """
    import pandas as pd

    first = pd.read_csv(
        path, sep=separator, skipinitialspace=True, header=None, nrows=1, dtype=str, keep_default_na=False
    )
    return first.iloc[0].tolist()


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty")


def _parquet(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        return pd.read_parquet(path)
    except ImportError:
        raise ValueError(f"{path}: nothing is installed that reads Parquet; pip install pyarrow, or save CSV") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no Parquet file ({error})") from error


def _csv(path: Path, separator: str) -> pd.DataFrame:
    import pandas as pd

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(path, sep=separator, skipinitialspace=True, low_memory=False, index_col=False)
            # pandas gives a second column of a name another one without a word.
            names = names_in(path, separator)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not in UTF-8 (byte {error.object[error.start]:#x}); save it in UTF-8") from error
    except pd.errors.ParserWarning:
        raise ValueError(f"{path} is no table: its rows hold more values than its first line has names") from None
    except pd.errors.EmptyDataError:
        raise ValueError(f"{path}: the file has no columns") from None
    except pd.errors.ParserError as error:
        raise ValueError(
            f"{path} is no table: {str(error).strip()}; every row needs as many values as there are columns"
        ) from error
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        raise ValueError(f"{path} has more than one column called {twice[0]!r}; rename or drop all but one")
    if len(frame.columns) == 1:
        header = str(frame.columns[0])
        other = next((mark for mark in SEPARATORS if mark in header and mark != separator), None)
        if other is not None:
            raise ValueError(
                f"{path} has one column, {header[:40]!r}: {SEPARATORS[other]} seems to stand between its columns; say "
                f"--separator {other!r}"
            )
    return frame


def read_arrays(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The arrays `inputs` and `targets` of an `.npz` file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such file, or the arrays are not there or hold no numbers.
    """
    _check_there(path)
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
            names = list(content)
            found = {name: content[name] for name in ("inputs", "targets") if name in names}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no file of arrays (np.savez(path, inputs=..., targets=...)): {error}") from error
    for name in ("inputs", "targets"):
        if name not in found:
            raise ValueError(
                f"{path} must hold the arrays inputs and targets, got {', '.join(names) or 'none'}; write it by "
                "np.savez(path, inputs=..., targets=...)"
            )
        if found[name].dtype.kind not in "fiub":
            raise ValueError(f"{path}: {name} must be numbers, got {found[name].dtype}")
    return found["inputs"], found["targets"]
