import pickle
import struct
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch

from bayes_influence.data.download import DATA_VARIABLE, SourceFile
from bayes_influence.data.images import CIFAR_FILES, IDX_FILES, IMAGE_SETS, load_images, read_idx


def idx(array):
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


def small_mnist():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (8, 28, 28), dtype=np.uint8)
    labels = np.array([0, 1, 2, 9, 4, 3, 2, 1], dtype=np.uint8)
    contents = [idx(images[:5]), idx(labels[:5]), idx(images[5:]), idx(labels[5:])]
    return images[:, None], labels, dict(zip(IDX_FILES, contents, strict=True))


def small_cifar():
    generator = np.random.default_rng(1)
    images = generator.integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)
    labels = generator.integers(0, 10, 12)
    batches = [
        {b"data": images[start : start + 2].reshape(2, -1), b"labels": labels[start : start + 2].tolist()}
        for start in range(0, 12, 2)
    ]
    contents = [pickle.dumps(batch, protocol=2) for batch in batches]
    return images, labels, dict(zip(CIFAR_FILES, contents, strict=True))


SMALL = {"mnist": small_mnist, "fashion-mnist": small_mnist, "cifar10": small_cifar}


@pytest.fixture
def install(monkeypatch, tmp_path):
    """Writes a small set into a folder and lets the library know it under the name of the real one."""
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))

    def put(name):
        images, labels, contents = SMALL[name]()
        (tmp_path / name).mkdir()
        for file, content in contents.items():
            (tmp_path / name / file).write_bytes(content)
        files = tuple(SourceFile(file, sha256(content).hexdigest()) for file, content in contents.items())
        known = IMAGE_SETS[name]
        monkeypatch.setitem(IMAGE_SETS, name, replace(known, source=replace(known.source, files=files, mirrors=())))
        return images, labels

    return put


@pytest.mark.parametrize("name", sorted(IMAGE_SETS))
def test_images_labels_and_ids_are_those_of_the_files(install, name):
    images, labels = install(name)
    split = load_images(name, standardised=False)
    n_train = len(split.train)
    assert n_train == (10 if name == "cifar10" else 5)
    torch.testing.assert_close(split.train.inputs, torch.from_numpy(images[:n_train]).float() / 255)
    torch.testing.assert_close(split.test.inputs, torch.from_numpy(images[n_train:]).float() / 255)
    assert split.train.targets.tolist() + split.test.targets.tolist() == labels.tolist()
    assert split.train.ids.tolist() + split.test.ids.tolist() == list(range(len(labels)))
    assert split.train.n_classes == 10


@pytest.mark.parametrize("name", sorted(IMAGE_SETS))
def test_channels_are_standardised_on_the_training_part(install, name):
    install(name)
    raw, split = load_images(name, standardised=False), load_images(name, dtype=torch.float64)
    channels = raw.train.inputs.double().transpose(0, 1).flatten(1)
    mean, scale = channels.mean(dim=1), channels.std(dim=1, correction=0)
    expected = (raw.test.inputs.double() - mean[:, None, None]) / scale[:, None, None]
    torch.testing.assert_close(split.test.inputs, expected, atol=1e-6, rtol=1e-6)


def test_unknown_set_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown image set 'svhn'; known: cifar10, fashion-mnist, mnist"):
        load_images("svhn")


def test_altered_file_is_refused(install, tmp_path):
    install("mnist")
    path = tmp_path / "mnist" / IDX_FILES[0]
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    with pytest.raises(ValueError, match=rf"{path} is not the file that was published as {IDX_FILES[0]}"):
        load_images("mnist")


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_altered_pickle_is_never_opened(install, tmp_path):
    install("cifar10")
    trace = tmp_path / "opened"
    payload = pickle.dumps(Payload(trace))
    (tmp_path / "cifar10" / "data_batch_3").write_bytes(payload)
    with pytest.raises(ValueError, match="data_batch_3 is not the file that was published"):
        load_images("cifar10")
    assert not trace.exists()
    pickle.loads(payload)
    assert trace.exists()


def test_one_set_in_place_of_another_is_refused(install, tmp_path):
    install("mnist")
    (tmp_path / "mnist").rename(tmp_path / "fashion-mnist")
    with pytest.raises(ValueError, match="truncated, altered, or of another data set"):
        load_images("fashion-mnist")


def test_missing_files_without_download(install):
    with pytest.raises(FileNotFoundError, match=r"cifar10: data_batch_1, .*test_batch not found"):
        load_images("cifar10", download=False)


def test_idx_arrays_of_any_rank():
    for shape in [(4,), (2, 3), (2, 3, 4)]:
        array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
        assert np.array_equal(read_idx(idx(array)), array)


def test_content_that_is_not_idx():
    with pytest.raises(ValueError, match="starts with 00 00 08, this one with 89 50 4e"):
        read_idx(b"\x89PNG....")
    with pytest.raises(ValueError, match=r"of shape \(2, 3\) has 18 bytes, this one has 17"):
        read_idx(idx(np.zeros((2, 3), dtype=np.uint8))[:-1])
