"""Checkpoints: a training's state and configuration in one safetensors file, floats bit for bit, with a checksum."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from bayes_influence.data.packed import packed, unpacked
from bayes_influence.data.sealed import DamagedFileError
from bayes_influence.errors import BayesInfluenceError
from bayes_influence.training.minibatch import TrainingState


class CheckpointError(BayesInfluenceError, ValueError):
    """A checkpoint that is damaged, or of another training."""


def encode_checkpoint(state: TrainingState, config: Mapping[str, Any]) -> bytes:
    """The content of a checkpoint's file: all tensors of the state, the configuration as JSON, a SHA-256 of the file.

    Args:
        state: As `train_minibatches` hands it to `on_epoch`.
        config: Everything needed to repeat the training, plain JSON values.
    """
    return packed("checkpoint", state, config)


def decode_checkpoint(content: bytes) -> tuple[TrainingState, dict[str, Any]]:
    """State and configuration out of a checkpoint's file.

    Raises:
        CheckpointError: If the content is truncated, no checkpoint, or does not match its checksum.
    """
    try:
        return unpacked(content, "checkpoint")
    except DamagedFileError as error:
        raise CheckpointError(f"the checkpoint cannot be used: {error}; delete it to start anew") from error


def matching_state(
    content: bytes,
    config: Mapping[str, Any],
    completed: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> TrainingState:
    """The state of a checkpoint that belongs to the given configuration.

    Args:
        content: Of the checkpoint's file.
        config: Everything needed to repeat the training.
        completed: Makes of the configuration that is stored what it says today.

    Raises:
        CheckpointError: If it is damaged, or its configuration differs; the message names the first difference.
    """
    state, stored = decode_checkpoint(content)
    stored, wanted = completed(stored), json.loads(json.dumps(dict(config)))
    for name in sorted(set(stored) | set(wanted)):
        old, new = stored.get(name, "absent"), wanted.get(name, "absent")
        if old != new:
            raise CheckpointError(
                f"the checkpoint is of another training: {name} is {old!r} there and {new!r} here; "
                "choose another folder, or the same settings to continue"
            )
    return state
