import pytest
import torch

from bayes_influence.data.packed import packed, unpacked
from bayes_influence.data.sealed import DamagedFileError


def test_a_packed_file_comes_back_bit_for_bit_and_says_its_kind():
    tensors = {"b": torch.tensor([0.1, torch.nan, -0.0]), "a": torch.ones(2, 2).bfloat16().T}
    header = {"z": 1 / 3, "a": [None, True, "é"]}
    content = packed("thing", tensors, header)
    assert content == packed("thing", dict(reversed(tensors.items())), dict(reversed(header.items())))
    found, said = unpacked(content, "thing")
    assert said == header
    assert torch.equal(found["b"].view(torch.int32), tensors["b"].view(torch.int32))
    assert torch.equal(found["a"], tensors["a"])
    with pytest.raises(DamagedFileError, match=r"it is no other, but holds \['thing'\]"):
        unpacked(content, "other")
    with pytest.raises(DamagedFileError, match="does not match its checksum"):
        unpacked(content[:-1] + bytes([content[-1] ^ 1]), "thing")


def test_tensors_that_share_memory_are_packed():
    whole = torch.arange(6.0)
    found, _ = unpacked(packed("thing", {"whole": whole, "part": whole[:2]}, {}), "thing")
    assert torch.equal(found["part"], whole[:2])
