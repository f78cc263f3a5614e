"""Tar shards: written by `pack`, by the webdataset library, or by anyone; read like a folder."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from seresnet.data.augment import TrainCrop
from seresnet.data.folder import image_folder
from seresnet.data.loader import Loader
from seresnet.data.open_dataset import open_data, open_labelled
from seresnet.data.pack import pack
from seresnet.data.preprocess import Preprocess
from seresnet.data.shard_files import index_path
from seresnet.data.shards import read_index, scan
from seresnet.errors import DataError
from tests.made_images import color_folder

CROP = TrainCrop("resized", Preprocess(input_size=(3, 12, 12), crop_pct=1.0), scale=(0.3, 1.0))


@pytest.fixture(scope="module")
def colors(tmp_path_factory) -> Path:
    return color_folder(tmp_path_factory.mktemp("colors") / "data", per_class=9)


@pytest.fixture(scope="module")
def packed(colors, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("packed")
    pack(colors, out, shard_size=10, exist_ok=True)
    return out


def write_shard(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def content(images) -> list[tuple[bytes, str]]:
    read = [(image.read_bytes() if isinstance(image, Path) else image.read(), t) for image, t in images.samples]
    return sorted((data, images.classes[target]) for data, target in read)


def test_packed_images_are_those_of_the_folder(colors, packed):
    images = open_data(packed).train
    assert images.classes == ("blue", "green", "red")
    assert content(images) == content(image_folder(colors))
    assert len({image.key for image, _ in images.samples}) == 27


def test_the_index_says_what_a_scan_finds(packed):
    for path in sorted(packed.glob("*.tar")):
        assert read_index(path) == scan(path)


def test_without_an_index_the_headers_are_scanned(packed, tmp_path):
    for path in packed.glob("*.tar"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    images = open_data(tmp_path).train
    assert images.classes == ("0", "1", "2")  # no classnames.txt here
    assert [t for _, t in images.samples] == [t for _, t in open_data(packed).train.samples]


def test_an_index_of_another_file_is_not_believed(packed, tmp_path):
    path = tmp_path / "train-000000.tar"
    path.write_bytes((packed / path.name).read_bytes() + bytes(10240))
    index_path(path).write_bytes(index_path(packed / path.name).read_bytes())
    assert read_index(path) is None


@pytest.mark.parametrize("world", [1, 2])
def test_training_goes_on_where_it_stopped(packed, world):
    """Bit for bit, in mid-epoch, with other workers: a shard is no unit of anything."""
    samples = open_data(packed).train.samples
    for rank in range(world):
        whole, rest = (Loader(samples, CROP, 4, workers, rank=rank, world=world) for workers in (0, 2))
        expected = list(whole.epoch(3))[1:]
        for batch, again in zip(expected, rest.epoch(3, skip=1), strict=True):
            assert np.array_equal(batch.pixels, again.pixels)
            assert batch.targets.tolist() == again.targets.tolist()


def test_two_processes_count_every_image_once(packed):
    samples = open_data(packed).train.samples
    seen = []
    for rank in (0, 1):
        for batch in Loader(samples, CROP, 4, 0, rank=rank, world=2).in_order():
            seen += [str(image) for image in batch.paths]
    assert sorted(seen) == sorted(str(image) for image, _ in samples)


def test_the_webdataset_library_reads_what_is_packed(packed, colors):
    wds = pytest.importorskip("webdataset")
    urls = [str(path) for path in sorted(packed.glob("train-*.tar"))]
    read = list(wds.WebDataset(urls, shardshuffle=False).decode("rgb8").to_tuple("png", "cls"))
    assert len(read) == 27
    found = sorted((pixels.tobytes(), target) for pixels, target in read)
    folder = image_folder(colors)
    crop = Preprocess(input_size=(3, 16, 16), crop_pct=1.0)
    from seresnet.data.decode import decode

    assert found == sorted((crop.pixels(decode(path)).tobytes(), target) for path, target in folder.samples)


def test_what_the_webdataset_library_writes_is_read(colors, tmp_path):
    wds = pytest.importorskip("webdataset")
    folder = image_folder(colors)
    with wds.ShardWriter(str(tmp_path / "train-%04d.tar"), maxcount=10, verbose=0) as writer:
        for number, (path, target) in enumerate(folder.samples):
            writer.write({"__key__": f"{number:05d}", "png": path.read_bytes(), "cls": target, "json": {"note": "x"}})
    (tmp_path / "classnames.txt").write_text("\n".join(folder.classes))
    images = open_data(tmp_path).train
    assert [image.read() for image, _ in images.samples] == [path.read_bytes() for path, _ in folder.samples]
    assert [target for _, target in images.samples] == [target for _, target in folder.samples]
    assert images.classes == folder.classes


def test_names_patterns_and_kinds_of_labels(tmp_path):
    image = b"an image, as far as shards are concerned"
    for number in range(3):
        label = {"label": ["cat", "dog", "cat"][number]}
        write_shard(
            tmp_path / f"pets-train-{number:03d}.tar", {"a/x.jpg": image, "a/x.json": json.dumps(label).encode()}
        )
    write_shard(tmp_path / "pets-val-000.tar", {"y.seg.png": b"", "y.JPEG": image, "y.json": b'{"label": "dog"}'})
    whole = open_data(tmp_path)
    assert whole.train.classes == ("cat", "dog")
    assert [target for _, target in whole.train.samples] == [0, 1, 0]
    assert [target for _, target in whole.validation.samples] == [1]
    assert open_labelled(tmp_path).samples == whole.validation.samples
    for pattern in ("pets-train-{000..002}.tar", "pets-train-{000,001,002}.tar", "pets-tr*.tar"):
        assert open_data(tmp_path / pattern).train == whole.train
    assert len(open_labelled(tmp_path / "pets-train-001.tar").samples) == 1
    with pytest.raises(DataError, match=r"pets-train-003\.tar: no such shard"):
        open_data(tmp_path / "pets-train-{000..003}.tar")


def test_several_labels(tmp_path):
    labels = [["wet", "cold"], [], ["wet"]]
    members = {
        f"{i}.{s}": d
        for i, x in enumerate(labels)
        for s, d in (("jpg", b"x"), ("json", json.dumps({"labels": x}).encode()))
    }
    images = open_data(write_shard(tmp_path / "train-0.tar", members)).train
    assert images.multi_label
    assert images.classes == ("cold", "wet")
    assert [target for _, target in images.samples] == [(0, 1), (), (1,)]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.jpg": b"x", "b.jpg": b"x", "b.cls": b"0"}, r"train-0\.tar/a: has no label"),
        ({"a.cls": b"0", "b.jpg": b"x", "b.cls": b"0"}, r"train-0\.tar/a: has no image"),
        ({"a.jpg": b"x", "a.png": b"x", "a.cls": b"0"}, r"a\.png: a second image of the same key"),
        ({"a.jpg": b"x", "a.cls": b"cat"}, r"a\.cls: is not a class index"),
        ({"a.jpg": b"x", "a.cls": b"-1"}, "-1 is not a class index"),
        ({"a.jpg": b"x", "a.json": b"{"}, r"a\.json: is not JSON"),
        ({"a.jpg": b"x", "a.json": b'{"label": 1.5}'}, "a label is a class index or a name, not 1.5"),
        ({"a.jpg": b"x", "a.json": b'{"label": "x"}', "b.jpg": b"x", "b.cls": b"0"}, "names here and numbers there"),
        (
            {"a.jpg": b"x", "a.json": b'{"label": "x"}', "b.jpg": b"x", "b.json": b'{"labels": ["x"]}'},
            "b.jpg: has labels",
        ),
        ({"a.txt": b"x", "a.json": b"{}"}, "no images in its shards"),
    ],
)
def test_refusals(tmp_path, members, message):
    with pytest.raises(DataError, match=message) as refused:
        open_data(write_shard(tmp_path / "train-0.tar", members))
    assert "\n" not in str(refused.value)


def test_cut_off_and_compressed_shards_are_refused(packed, tmp_path):
    data = (packed / "train-000000.tar").read_bytes()
    path = tmp_path / "train-000000.tar"
    for end in range(512, len(data) - 10240, 1300):
        path.write_bytes(data[:end])
        with pytest.raises(DataError, match=r"cut off|has no"):
            open_data(tmp_path)
    with tarfile.open(path, "w:gz") as tar:
        tar.add(packed / "classnames.txt", "a.cls")
    with pytest.raises(DataError, match="compressed shard has no random access"):
        open_data(tmp_path)


def test_images_that_went_away_are_unreadable_and_not_replaced(packed, tmp_path):
    for path in packed.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    samples = open_data(tmp_path).train.samples
    with (tmp_path / "train-000001.tar").open("r+b") as file:
        file.truncate(samples[12][0].offset + 5)
    loader = Loader(samples, CROP, 27, 0)
    batch = next(loader.in_order())
    assert len(batch.targets) == 27 - 8 == len(set(batch.paths))
    assert {str(image) for image in loader.unreadable} == {str(image) for image, _ in samples[12:20]}
