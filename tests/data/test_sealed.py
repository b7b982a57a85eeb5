import pytest
import torch
from safetensors.torch import load, save

from bayes_influence.data import sealed
from bayes_influence.data.sealed import (
    UNSEALED,
    DamagedFileError,
    seal,
    seal_file,
    sealed_file_header,
    sealed_header,
)

DAMAGED = r"it is truncated, or no file of this library|its content does not match its checksum"
NUMBERS = {"numbers": torch.arange(40.0)}


@pytest.fixture
def content():
    return save(NUMBERS, {"seal": f"{UNSEALED} and {UNSEALED}"})


def test_a_sealed_file_is_the_file_with_its_hash_in_one_place(content):
    whole = seal(content)
    header = sealed_header(whole)
    assert header["seal"].endswith(f" and {UNSEALED}")
    digest = header["seal"][: len(UNSEALED)]
    assert whole.replace(digest.encode(), UNSEALED.encode()) == content
    assert digest.removeprefix("sha256:") == __import__("hashlib").sha256(content).hexdigest()
    assert torch.equal(load(whole)["numbers"], NUMBERS["numbers"])


@pytest.mark.parametrize("piece", [7, 1 << 22])
def test_a_file_is_sealed_and_read_in_pieces_as_it_is_at_once(content, piece, tmp_path, monkeypatch):
    monkeypatch.setattr(sealed, "PIECE", piece)
    path = tmp_path / "file"
    path.write_bytes(content)
    seal_file(path)
    assert path.read_bytes() == seal(content)
    assert sealed_file_header(path) == sealed_header(seal(content))


def test_any_flipped_bit_and_any_missing_end_is_noticed(content, tmp_path):
    whole, path = seal(content), tmp_path / "file"
    flips = [whole[:k] + bytes([whole[k] ^ 1 << k % 8]) + whole[k + 1 :] for k in range(len(whole))]
    for damaged in [*flips, *(whole[:k] for k in range(0, len(whole), 13)), whole + b" "]:
        path.write_bytes(damaged)
        with pytest.raises(DamagedFileError, match=DAMAGED):
            sealed_header(damaged)
        with pytest.raises(DamagedFileError, match=DAMAGED):
            sealed_file_header(path)


def test_a_file_that_was_not_sealed_is_not_taken(content):
    with pytest.raises(DamagedFileError, match="its content does not match its checksum"):
        sealed_header(content)
    with pytest.raises(DamagedFileError, match="no file of this library"):
        sealed_header(save(NUMBERS))
