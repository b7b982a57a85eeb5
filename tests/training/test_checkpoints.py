import pytest
import torch
from safetensors.torch import save

from bayes_influence.data.sealed import UNSEALED, seal
from bayes_influence.training.checkpoints import (
    CheckpointError,
    decode_checkpoint,
    encode_checkpoint,
    matching_state,
)

STATE = {"flat": torch.tensor([[0.1, torch.inf, torch.nan]]), "epoch": torch.tensor(3)}
CONFIG = {"network": "mlp", "sizes": (4, 3), "learning_rate": 1e-3}


def test_states_come_back_bit_for_bit_and_equal_states_are_equal_files():
    content = encode_checkpoint(STATE, CONFIG)
    assert content == encode_checkpoint(dict(STATE), dict(reversed(CONFIG.items())))
    state, config = decode_checkpoint(content)
    assert torch.equal(state["flat"].view(torch.int32), STATE["flat"].view(torch.int32))
    assert int(state["epoch"]) == 3
    assert config == {"network": "mlp", "sizes": [4, 3], "learning_rate": 1e-3}
    assert matching_state(content, CONFIG).keys() == STATE.keys()


def test_a_truncated_file_is_refused():
    with pytest.raises(CheckpointError, match=r"it is truncated|its content does not match its checksum"):
        decode_checkpoint(encode_checkpoint(STATE, CONFIG)[:-2])
    with pytest.raises(CheckpointError, match="delete it to start anew"):
        decode_checkpoint(b"")


def test_any_flipped_bit_is_noticed():
    content = encode_checkpoint(STATE, CONFIG)
    for place in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        with pytest.raises(CheckpointError, match=r"cannot be used: .*; delete it to start anew"):
            decode_checkpoint(bytes(flipped))


def test_another_sealed_file_is_no_checkpoint():
    other = seal(save({"a": torch.zeros(1)}, {"cell": UNSEALED}))
    with pytest.raises(CheckpointError, match=r"cannot be used: it is no checkpoint, but holds \['cell'\]"):
        decode_checkpoint(other)


def test_a_checkpoint_of_another_training_is_refused_by_its_first_difference():
    content = encode_checkpoint(STATE, CONFIG)
    with pytest.raises(CheckpointError, match="network is 'mlp' there and 'lenet' here"):
        matching_state(content, {**CONFIG, "network": "lenet"})
    with pytest.raises(CheckpointError, match=r"clip is 'absent' there and 1\.0 here"):
        matching_state(content, {**CONFIG, "clip": 1.0})
