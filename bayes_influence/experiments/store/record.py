"""What a study's folder says of itself, and what the files in it are called; read without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bayes_influence.data.plain_fingerprint import plain_fingerprint

CONFIG = "config.json"
CELLS = "cells"
CELL_SUFFIX = ".safetensors"

FAILURES = "failures"
"""Table in which cells that raised are recorded."""

CHECKPOINT = "checkpoint.safetensors"
"""The state of a training run after its last epoch."""

REPORT = "report"
"""Cell of a run's folder with the tables of its report, the last that it writes."""


def read_record(path: Path) -> dict[str, Any]:
    """The configuration and the versions in a `config.json`.

    Raises:
        ValueError: If it is damaged.
    """
    try:
        record = json.loads(path.read_bytes())
        read = {"config": record["config"], "versions": record["versions"]}
        if plain_fingerprint(**read) != record["sha256"]:
            raise ValueError("its content does not match its checksum")
        return read
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); restore it, or choose another folder") from error


def read_study(folder: Path) -> dict[str, Any]:
    """The configuration and the versions of the study that a folder holds.

    Raises:
        FileNotFoundError: If it holds none.
        ValueError: If its `config.json` is damaged.
    """
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder} holds no study: there is no {CONFIG} in it")
    return read_record(folder / CONFIG)
