from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bayes_influence.data.own_images import OwnImages
from bayes_influence.data.stream import UnreadableExampleError
from bayes_influence.data.streamed import StreamedDataset


@pytest.fixture
def folder(tmp_path):
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(10):
            pixels = generator.integers(0, 256, size=(3, 4, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    return tmp_path


def test_images_are_streamed_by_class_and_standardised_on_the_training_part(folder, monkeypatch):
    known = OwnImages.read(folder)
    monkeypatch.chdir(folder)
    assert OwnImages.read(Path(".")).name == known.name == folder.name
    split = known.split(torch.float64)
    assert isinstance(split.train, StreamedDataset)
    assert (len(split.train), len(split.test), split.train.class_names) == (16, 4, ("cat", "dog"))
    inputs = split.train.inputs
    assert inputs.shape == (16, 3, 3, 4)
    torch.testing.assert_close(inputs.mean(dim=(0, 2, 3)), torch.zeros(3).double(), atol=1e-6, rtol=0)
    raw = known.raw_split(torch.float64)
    expected = known.standardise(raw.train, raw.test)[1].inputs
    torch.testing.assert_close(split.test.inputs, expected, atol=1e-6, rtol=0)
    first = np.asarray(Image.open(folder / "cat" / "0.png")).transpose(2, 0, 1) / 255
    whole = {
        int(example): row for part in (raw.train, raw.test) for example, row in zip(part.ids, part.inputs, strict=True)
    }
    np.testing.assert_allclose(whole[0].numpy(), first, atol=1e-7)
    assert split.train.targets.tolist() == [int(example >= 10) for example in split.train.ids]


def test_images_without_colour_have_one_channel(folder):
    for path in folder.rglob("*.png"):
        Image.open(path).convert("L").save(path)
    assert OwnImages.read(folder).split(torch.float32).train.example.inputs.shape == (1, 1, 3, 4)


def test_images_of_another_size_are_refused(folder):
    Image.new("RGB", (5, 3)).save(folder / "dog" / "5.png")
    with pytest.raises(ValueError, match=r"5\.png has 5 x 3 pixels, the first image \(0\.png\) 4 x 3"):
        OwnImages.read(folder)


def test_files_that_are_no_images_are_refused(folder):
    (folder / "dog" / "5.png").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"dog.5\.png is no image that Pillow reads .*; replace the file"):
        OwnImages.read(folder)


def test_images_that_break_off_are_named_by_their_path(folder):
    path = folder / "dog" / "5.png"
    noise = np.random.default_rng(0).integers(0, 256, size=(300, 400, 3), dtype=np.uint8)
    for other in folder.rglob("*.png"):
        Image.fromarray(noise).save(other)
    path.write_bytes(path.read_bytes()[:20000])
    with pytest.raises(UnreadableExampleError, match=r"dog.5\.png \(.*truncated.*\); replace the file, or remove it"):
        OwnImages.read(folder).split(torch.float32)


@pytest.mark.parametrize("coloured", [1, 20])
def test_colour_among_grey_images_is_said_once(folder, caplog, coloured):
    paths = sorted(folder.rglob("*.png"))
    for path in paths[coloured:]:
        Image.open(path).convert("L").save(path)
    assert OwnImages.read(folder).image_shape == (3, 3, 4)
    told = [record.getMessage() for record in caplog.records]
    if coloured == 20:
        assert told == []
        return
    (sentence,) = told
    assert f"images with colour ({paths[0]}, say) are mixed, so every image gets three channels" in sentence
    assert sentence.endswith("as Pillow calls them: L 19, RGB 1. Convert all to one mode")


def test_a_class_needs_two_images_and_a_folder_two_classes(folder):
    (folder / "emu").mkdir()
    Image.new("RGB", (4, 3)).save(folder / "emu" / "0.png")
    with pytest.raises(ValueError, match=r"the class emu has 1 image \(.*at least 2 are needed"):
        OwnImages.read(folder)
    with pytest.raises(ValueError, match="one sub-folder per class, two at least, got 0"):
        OwnImages.read(folder / "cat")
