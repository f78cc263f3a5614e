"""The order of images is a pure function of seed and epoch, and every process gets its share."""

import io

import numpy as np
import pytest
from PIL import Image

from seresnet.data.augment import TrainCrop
from seresnet.data.decode import decode
from seresnet.data.folder import image_folder
from seresnet.data.loader import Loader
from seresnet.data.parallel import default_workers
from seresnet.data.preprocess import Preprocess
from seresnet.errors import DataError, ImageError
from tests.made_images import color_folder


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return image_folder(color_folder(tmp_path_factory.mktemp("data"), per_class=9)).samples  # 27 images


def loader(samples, kind="resized", **settings) -> Loader:
    crop = TrainCrop(kind, Preprocess(input_size=(3, 12, 12), crop_pct=1.0), scale=(0.3, 1.0))
    return Loader(**{"samples": samples, "crop": crop, "batch_size": 4, "workers": 0, **settings})


def paths(batches):
    return [path for batch in batches for path in batch.paths]


def test_an_epoch_has_full_batches_of_different_images(samples):
    batches = list(loader(samples).epoch(0))
    assert [len(b.targets) for b in batches] == [4] * 6
    assert len(set(paths(batches))) == 24
    targets = dict(samples)
    assert all(targets[path] == target for b in batches for path, target in zip(b.paths, b.targets, strict=True))


def test_seed_and_epoch_decide_order_and_crop(samples):
    first, again = (list(loader(samples, workers=n).epoch(5)) for n in (0, 3))
    assert paths(first) == paths(again)
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(first, again, strict=True))
    assert paths(loader(samples).epoch(6)) != paths(first)
    assert paths(loader(samples, seed=1).epoch(5)) != paths(first)


def test_skipping_continues_where_the_epoch_was(samples):
    whole, rest = list(loader(samples).epoch(2)), list(loader(samples).epoch(2, skip=4))
    assert paths(rest) == paths(whole[4:])
    assert np.array_equal(rest[0].pixels, whole[4].pixels)


def test_processes_share_each_global_batch(samples):
    alone = list(loader(samples, batch_size=8).epoch(1))
    shares = [list(loader(samples, batch_size=4, rank=rank, world=2).epoch(1)) for rank in (0, 1)]
    for batch, *parts in zip(alone, *shares, strict=True):
        assert sorted(batch.paths) == sorted(paths(parts))


def test_evaluation_order_counts_every_image_once(samples):
    shares = [paths(loader(samples, rank=rank, world=2).in_order()) for rank in (0, 1)]
    assert sorted(shares[0] + shares[1]) == sorted(path for path, _ in samples)


def test_kept_pixels_are_those_of_the_evaluation_transform(samples):
    kept = loader(samples, kind="center")
    assert kept.fits_in_memory()
    counted = []
    kept.fill_cache(lambda: counted.append(1))
    assert len(counted) == 27
    batch = next(kept.in_order())
    preprocess = kept.crop.preprocess
    assert np.array_equal(batch.pixels[0], preprocess.pixels(decode(samples[0][0])))
    assert not loader(samples, kind="resized").fits_in_memory()


def test_unreadable_images_are_left_out_and_named(samples, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"nothing")
    some = loader([*samples[:3], (broken, 0), *samples[3:]])
    seen = paths(some.in_order())
    assert sorted(seen) == sorted(path for path, _ in samples)
    assert list(some.unreadable) == [broken]
    with pytest.raises(DataError, match=r"no image of a batch can be read.*broken\.png"):
        list(loader([(broken, 0)] * 4).in_order())


@pytest.fixture(scope="module")
def photograph():
    """A real photograph as a large JPEG, 1800 x 1300, and its picture."""
    data = pytest.importorskip("skimage.data")
    picture = Image.fromarray(data.astronaut()).resize((1800, 1300), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def test_larger_images_than_allowed_are_skipped(photograph, tmp_path):
    (tmp_path / "large.jpg").write_bytes(photograph)
    Image.new("RGB", (40, 40)).save(tmp_path / "small.png")
    samples = [(tmp_path / name, 0) for name in ("large.jpg", "small.png")]
    some = Loader(samples, TrainCrop("center", Preprocess((3, 16, 16))), 2, 0, max_pixels=2_000_000)
    (batch,) = some.in_order()
    assert batch.paths == [tmp_path / "small.png"]
    assert "over the limit of 2" in some.unreadable[tmp_path / "large.jpg"]


def test_large_photographs_are_decoded_smaller_for_random_crops(photograph, tmp_path):
    (tmp_path / "large.jpg").write_bytes(photograph)
    preprocess = Preprocess(input_size=(3, 128, 128), interpolation="bicubic")
    some = Loader([(tmp_path / "large.jpg", 0)], TrainCrop("resized", preprocess), batch_size=1, workers=0, seed=4)
    whole, factors = decode(photograph), []
    for epoch in range(24):
        pixels = next(some.epoch(epoch)).pixels[0].astype(int)
        expected = some.crop(whole, np.random.default_rng([4, epoch, 0])).astype(int)
        factor = some.crop.reduction(whole.size, [4, epoch, 0])
        factors.append(factor)
        difference = np.abs(pixels - expected).mean()
        assert difference < 0.8 if factor > 1 else difference == 0  # of 255 levels
    assert set(factors) == {1, 2, 4}


def test_evaluation_crops_are_never_decoded_smaller(photograph, tmp_path):
    (tmp_path / "large.jpg").write_bytes(photograph)
    preprocess = Preprocess(input_size=(3, 48, 48))
    some = Loader([(tmp_path / "large.jpg", 0)], TrainCrop("center", preprocess), batch_size=1, workers=0)
    assert np.array_equal(next(some.in_order()).pixels[0], preprocess.pixels(decode(photograph)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_smaller_picture_is_upright_too(photograph, orientation):
    picture = Image.open(io.BytesIO(photograph)).crop((0, 0, 1203, 901))
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=92, exif=exif)
    sizes = []
    small = decode(buffer.getvalue(), reduction=lambda size: sizes.append(size) or 2)
    whole = decode(buffer.getvalue())
    assert sizes == [whole.size]
    assert small.size == (-(-whole.width // 2), -(-whole.height // 2))
    difference = np.asarray(whole.resize(small.size, Image.Resampling.BOX), int) - np.asarray(small, int)
    assert np.abs(difference).mean() < 4  # some tens where it lies otherwise


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_a_smaller_picture_is_refused_where_it_is_cut_short(factor):
    """Mid-grey at the end, where a decoder that ran out of data would put it."""
    buffer = io.BytesIO()
    Image.new("RGB", (1001, 803), (128, 128, 128)).save(buffer, "JPEG")
    decode(buffer.getvalue(), reduction=lambda _: factor)
    noise = np.random.default_rng(0).integers(0, 256, (803, 1001, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG")
    cut = buffer.getvalue()[: len(buffer.getvalue()) // 2] + b"\xff\xd9"
    with pytest.raises(ImageError, match="truncated JPEG"):
        decode(cut, reduction=lambda _: factor)


def test_processes_of_one_machine_share_its_cores(monkeypatch):
    monkeypatch.setattr("seresnet.data.parallel.usable_cores", lambda: 16)
    assert default_workers() == 16
    for processes, workers in (("4", 4), ("16", 1), ("64", 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        assert default_workers() == workers
