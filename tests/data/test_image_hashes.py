"""Hashes tell the same image file from another one, wherever it lies, and a run's hashes count its own images."""

import hashlib
import shutil
import tarfile
from pathlib import Path

import numpy as np

from seresnet.data.dataset import TarImage
from seresnet.data.folder import image_folder
from seresnet.data.image_hashes import (
    FILE,
    WHOLE,
    count_trained_on,
    image_hash,
    image_hashes,
    read_hashes,
    write_hashes,
)
from tests.made_images import color_folder


def test_a_hash_is_of_content_and_size(tmp_path):
    a, b = tmp_path / "a.png", tmp_path / "b.jpg"
    a.write_bytes(b"pixels")
    shutil.copy(a, b)
    expected = hashlib.blake2b((6).to_bytes(8, "little") + b"pixels", digest_size=8).digest()
    assert image_hash(a) == image_hash(b) == int.from_bytes(expected, "little")
    b.write_bytes(b"pixelt")
    assert image_hash(a) != image_hash(b)
    assert image_hash(tmp_path / "missing") == 0


def test_a_large_file_is_read_in_parts_and_its_end_counts(tmp_path):
    path, found = tmp_path / "large.bmp", set()
    for size, last in ((2 * WHOLE, 0), (2 * WHOLE, 1), (2 * WHOLE + 1, 0)):
        path.write_bytes(bytes(size - 1) + bytes([last]))
        found.add(image_hash(path))
    assert len(found) == 3


def test_a_member_of_an_archive_is_the_same_image_as_the_file(tmp_path):
    folder = color_folder(tmp_path / "data", per_class=1)
    file = folder / "red" / "000.png"
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(file, "red.png")
    with tarfile.open(tmp_path / "a.tar") as tar:
        member = tar.getmembers()[0]
    offset = member.offset_data
    assert image_hash(TarImage(tmp_path / "a.tar", "red.png", offset, member.size)) == image_hash(file)


def test_a_run_knows_its_images_by_content(tmp_path):
    run = tmp_path / "run"
    (run / "best").mkdir(parents=True)
    data = image_folder(color_folder(tmp_path / "data", per_class=4))
    assert count_trained_on(run / "best", []) is None
    hashes = image_hashes(data.samples[:8])
    write_hashes(run, hashes)
    assert read_hashes(run).tolist() == sorted(hashes.tolist())
    elsewhere = Path(shutil.copytree(data.root, tmp_path / "elsewhere"))
    images = [elsewhere / image.relative_to(data.root) for image, _ in data.samples]
    assert count_trained_on(run / "best", images) == count_trained_on(run, images) == 8
    (run / FILE).write_bytes(b"\x93NUMPY damaged")
    assert read_hashes(run) is None
    np.save(run / FILE, np.array([{"code": 1}], dtype=object), allow_pickle=True)
    assert read_hashes(run) is None  # nothing is unpickled
