"""Last-layer influence streamed over a folder of images, against a bare loop over the same loader and network.

The folder is made on the spot: JPEG files of random blobs. The bare loop reads every image once and passes it through
the network; influence does that, too, with everything that is checked on the way, and then solves and scores. Both are
timed in turns, by the CPU time of this process, which another one's load does not lengthen as much, and by the clock.
With workers, what these read is on the clock's account alone. Influence over a tenth of the images tells what it costs
per image from what it costs once.

    python -m benchmarks.streaming --images 50000
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from bayes_influence.influence.influence import Influence

CLASSES = 10
"""Classes of the images."""


class Folder(Dataset[tuple[Tensor, int]]):
    """Images by number, read when they are asked for."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.glob("*.jpg"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with Image.open(self.paths[index]) as image:
            pixels = torch.from_numpy(np.array(image))
        return pixels.permute(2, 0, 1).float().div_(255), index % CLASSES


class Residual(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """ReLU of the sum."""
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet(width: int) -> nn.Module:
    """Three stages, a mean over the pixels and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 2, 1),
        Residual(width, width, 1),
        Residual(width, 2 * width, 2),
        Residual(2 * width, 4 * width, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, CLASSES),
    ).eval()


def make_images(folder: Path, count: int, side: int) -> None:
    """Random colours, smooth as photographs are."""
    generator = np.random.default_rng(0)
    for index in range(count):
        coarse = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(
            folder / f"{index:06}.jpg", quality=90
        )


def peak_bytes() -> int:
    """The most memory that the process has held."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def seconds(work: Callable[[], None]) -> Float[np.ndarray, "2"]:
    """CPU seconds of this process, and the clock's."""
    began = time.process_time(), time.perf_counter()
    work()
    return np.array([time.process_time() - began[0], time.perf_counter() - began[1]])


def bare(network: nn.Module, loader: DataLoader[Any]) -> None:
    """Reads every image and passes it through the network."""
    with torch.no_grad():
        for images, _ in loader:
            network(images)


def influence(network: nn.Module, loader: DataLoader[Any], test: DataLoader[Any]) -> None:
    """Influence in the last layer, from the loader to all scores."""
    fitted = Influence.of(network, nn.CrossEntropyLoss(), loader, weight_decay=1e-3, damping=1e-3)
    fitted.on_loss(test)


def main(
    images: Annotated[int, typer.Option(help="In the folder.")] = 2000,
    side: Annotated[int, typer.Option(help="Pixels of each.")] = 64,
    tests: Annotated[int, typer.Option(help="Test images.")] = 20,
    width: Annotated[int, typer.Option(help="Channels of the network's first stage.")] = 16,
    batch: Annotated[int, typer.Option(help="Images in a batch.")] = 128,
    workers: Annotated[int, typer.Option(help="Processes that read.")] = 0,
    repeats: Annotated[int, typer.Option(help="Rounds of both loops in turns.")] = 3,
    threads: Annotated[int, typer.Option(help="Of torch.")] = 1,
) -> None:
    """Prints throughput and memory."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network = resnet(width)
    with tempfile.TemporaryDirectory() as name:
        make_images(Path(name), images, side)
        data = Folder(Path(name))
        loader, few, test = (
            DataLoader(part, batch_size=batch, num_workers=workers)
            for part in (data, Subset(data, range(images // 10)), Subset(data, range(tests)))
        )
        # The first differentiation imports parts of torch for seconds, whatever it differentiates.
        influence(network, test, test)
        before = peak_bytes()
        works = [partial(bare, network, loader), *(partial(influence, network, part, test) for part in (loader, few))]
        rounds = np.array([[seconds(work) for work in works] for _ in range(repeats)])
    loop, estimate, tenth = 1e6 * rounds.min(axis=0)[:, 0]
    each = (estimate - tenth) / (images - images // 10)
    print(f"bare loop: {loop / images:.0f} us an image of CPU time, {1e6 * images / loop:.0f} images/s")
    print(f"influence: {estimate / images:.0f} us an image, {1e6 * images / estimate:.0f} images/s; ", end="")
    print(f"{each:.0f} for every further image, and {(estimate - images * each) / 1e6:.2f} s once")
    for name, ratios in zip(("CPU time", "the clock"), (rounds[:, 0] / rounds[:, 1]).T, strict=True):
        low, middle, high = np.quantile(ratios, [0, 0.5, 1])
        print(f"throughput over the bare loop's by {name}, median and range: {middle:.2f}, {low:.2f} to {high:.2f}")
    print(f"peak memory: {before / 2**20:.0f} MiB after one batch, {peak_bytes() / 2**20:.0f} MiB after influence")


if __name__ == "__main__":
    typer.run(main)
