"""Packing: the same bytes each time, nothing half done that looks whole, nothing in place of what cannot be read."""

import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seresnet.cli import run
from seresnet.data.decode import decode
from seresnet.data.open_dataset import open_data, open_labelled, open_splits
from seresnet.data.pack import pack
from seresnet.errors import ConfigError, DataError
from tests.made_images import color_folder


def digests(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def photograph(path: Path, size: tuple[int, int], orientation: int = 1, **save) -> Image.Image:
    """Save a smooth picture whose four corners differ, and return it as it is in the file."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([255 * x / width, 255 * y / height, 128 + 0 * x], -1).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, exif=exif, **save)
    return Image.fromarray(pixels)


def test_the_same_images_give_the_same_shards(tmp_path):
    data = color_folder(tmp_path / "data", per_class=8)
    for name, workers in (("one", 0), ("two", 3)):
        packed = pack(data, tmp_path / name, size=8, shard_size=10, workers=workers)
        assert (packed.shards, packed.images, packed.skipped) == (3, 24, [])
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    targets = [target for _, target in open_labelled(tmp_path / "one", split="train").samples]
    assert targets != sorted(targets)  # mixed, for those who read from front to back


def test_parts_keep_their_names_and_order(tmp_path):
    for part, count in (("train", 3), ("val", 2), ("test", 1)):
        color_folder(tmp_path / "data" / part, per_class=count)
    pack(tmp_path / "data", tmp_path / "out")
    splits = open_splits(tmp_path / "out")
    assert {name: len(images.samples) for name, images in splits.items()} == {"train": 9, "validation": 6, "test": 3}
    assert [target for _, target in splits["validation"].samples] == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_larger_images_are_turned_upright_and_made_smaller(tmp_path, orientation):
    photograph(tmp_path / "data" / "x" / "a.jpg", (120, 80), orientation, quality=95)
    pack(tmp_path / "data", tmp_path / "out", size=40)
    ((image, _),) = open_labelled(tmp_path / "out", split="train").samples
    upright = decode(tmp_path / "data" / "x" / "a.jpg")
    size = (60, 40) if orientation < 5 else (40, 60)
    assert upright.size == (size[0] * 2, size[1] * 2)
    small = decode(image)
    assert small.size == size
    expected = np.asarray(upright.resize(size, Image.Resampling.LANCZOS), np.int16)
    assert np.abs(np.asarray(small, np.int16) - expected).mean() < 1.5


def test_smaller_images_and_those_without_size_keep_their_bytes(tmp_path):
    path = tmp_path / "data" / "x" / "a.tif"
    photograph(path, (64, 48), orientation=6)
    for name, size in (("kept", None), ("small", 48)):
        pack(tmp_path / "data", tmp_path / name, size=size)
        ((image, _),) = open_labelled(tmp_path / name, split="train").samples
        assert image.read() == path.read_bytes()
        assert image.member.endswith(".tif")


def test_names_are_made_plain_and_stay_different(tmp_path):
    for name in ("a.b.c.jpg", "Ä ö/ü.jpg", "a b.jpg", "a_b.jpg", "x" * 200 + ".jpg"):
        photograph(tmp_path / "data" / "class one" / name, (16, 16))
    pack(tmp_path / "data", tmp_path / "out")
    with tarfile.open(tmp_path / "out" / "train-000000.tar") as tar:
        names = tar.getnames()
    assert len({name.partition(".")[0] for name in names}) == 5
    assert all(name.isascii() and " " not in name and len(name) < 100 and name.count(".") == 1 for name in names)


def test_what_cannot_be_read_is_named_and_left_out(tmp_path, capsys):
    data = color_folder(tmp_path / "data", per_class=5)
    (data / "red" / "002.png").write_bytes((data / "red" / "002.png").read_bytes()[:200])
    (data / "blue" / "001.png").write_text("text")
    arguments = ["pack", str(data), "--out", str(tmp_path / "out"), "--shard-size", "4", "--workers", "2"]
    assert run(arguments) == 1
    out, err = capsys.readouterr()
    assert "13 images in 4 shards, 2 left out" in out
    assert "red/002.png: truncated PNG" in err and "blue/001.png: not an image (text)" in err
    images = open_labelled(tmp_path / "out", split="train")
    assert images.counts() == [4, 5, 4]
    assert run(arguments) == 2
    assert "has shards of these images; add --exist-ok" in capsys.readouterr().err
    assert run([*arguments, "--exist-ok"]) == 1  # nothing to do, and still two that are missing
    assert "red/002.png: truncated PNG" in capsys.readouterr().err


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    data = color_folder(tmp_path / "data", per_class=2)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty; give --out another folder"):
        pack(data, tmp_path / "out")
    pack(data, tmp_path / "out", exist_ok=True)
    pack(data, tmp_path / "out", shard_size=2, exist_ok=True)  # other shards: the first ones go
    names = {path.name for path in (tmp_path / "out").glob("*.tar")}
    assert names == {"train-000000.tar", "train-000001.tar", "train-000002.tar"}
    assert (tmp_path / "out" / "letter.txt").read_text() == "mine"
    with pytest.raises(ConfigError, match="size is 2: give 8 or more"):
        pack(data, tmp_path / "other", size=2)
    with pytest.raises(ConfigError, match="is a file"):
        pack(data, tmp_path / "out" / "letter.txt")


def test_larger_images_than_allowed_are_left_out(tmp_path):
    data = color_folder(tmp_path / "data", per_class=2)
    Image.new("RGB", (40, 40)).save(data / "red" / "large.png")
    packed = pack(data, tmp_path / "out", max_pixels=1000)
    assert packed.images == 6
    ((name, reason),) = packed.skipped
    assert name.endswith("large.png") and "over the limit of" in reason


def test_changed_images_are_packed_anew(tmp_path):
    data = color_folder(tmp_path / "data", per_class=2)
    pack(data, tmp_path / "out")
    photograph(data / "red" / "000.png", (20, 20))
    pack(data, tmp_path / "out", exist_ok=True)
    packed = open_labelled(tmp_path / "out", split="train").samples
    assert (data / "red" / "000.png").read_bytes() in [image.read() for image, _ in packed]


def test_killed_in_the_middle(tmp_path):
    """Killed -9 again and again, at whatever point: no shard looks whole that is not, and the end is as ever."""
    data = color_folder(tmp_path / "data", per_class=30, size=96)
    pack(data, tmp_path / "whole", shard_size=6)
    out, kills = tmp_path / "out", 0
    program = """
import sys, time
import seresnet.data.pack as p
add = p._add
def slow(tar, name, data):
    time.sleep(0.004)
    tar.fileobj.flush()
    print(name, flush=True)
    add(tar, name, data)
p._add = slow
p.pack(sys.argv[1], sys.argv[2], shard_size=6, workers=1, exist_ok=True)
print("done")
"""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for members in range(17, 300, 37):  # of 180 in all: in the middle of shards, and between an image and its label
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(data), str(out)], stdout=subprocess.PIPE, text=True, env=environment
        )
        lines = [line for _, line in zip(range(members), process.stdout, strict=False)]
        process.send_signal(signal.SIGKILL)
        process.wait(20)
        process.stdout.close()
        if "done\n" in lines:
            break
        kills += 1
        for path in out.glob("*.tar"):
            assert path.read_bytes() == (tmp_path / "whole" / path.name).read_bytes()
        with pytest.raises(DataError, match="is not there yet; finish it with seresnet pack"):
            open_data(out)
    assert kills >= 2
    pack(data, out, shard_size=6, exist_ok=True)
    assert digests(out) == digests(tmp_path / "whole")  # no temporary file is left either
