import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
from PIL import Image

from seresnet.data.preprocess import Preprocess
from seresnet.errors import ConfigError, ImageError
from tests.timm_import import timm

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "camera", "motorcycle_left", "hubble_deep_field")


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory):
    """Real photographs saved as JPEG files, some cut to odd aspect ratios."""
    folder = tmp_path_factory.mktemp("photographs")
    paths = []
    packaged = {path.stem: path for path in (Path(skimage.__file__).parent / "data").iterdir()}
    for name in PHOTOGRAPHS:
        if name in packaged:
            Image.open(packaged[name]).convert("RGB").save(folder / f"{name}.jpg", quality=90)
            paths.append(folder / f"{name}.jpg")
    assert len(paths) >= 4
    photograph = Image.open(paths[0])
    for width, height in ((511, 37), (33, 400), (225, 224), (32, 32), (301, 299), (20, 17)):
        paths.append(folder / f"{width}x{height}.jpg")
        photograph.crop((0, 0, width, height)).save(paths[-1], quality=80, subsampling=2)
    return paths


def timm_transform(cfg):
    size = cfg["input_size"]
    return timm.data.create_transform(
        input_size=size,
        interpolation=cfg["interpolation"],
        crop_pct=cfg["crop_pct"],
        crop_mode=cfg["crop_mode"],
        mean=cfg["mean"],
        std=cfg["std"],
        is_training=False,
    )


def config(size=(224, 224), interpolation="bilinear", crop_pct=0.875, crop_mode="center", channels=3):
    return {
        "input_size": (channels, *size),
        "interpolation": interpolation,
        "crop_pct": crop_pct,
        "crop_mode": crop_mode,
        "mean": (0.485, 0.456, 0.406)[:channels],
        "std": (0.229, 0.224, 0.225)[:channels],
    }


def assert_equals_timm(cfg, paths):
    transform, expected = Preprocess.from_timm(cfg), timm_transform(cfg)
    mode = "L" if cfg["input_size"][0] == 1 else "RGB"
    for path in paths:
        ours, theirs = transform(Image.open(path)), expected(Image.open(path).convert(mode))
        assert ours.dtype == torch.float32 and ours.is_contiguous()
        assert torch.equal(ours, theirs), (path.name, cfg)


@pytest.mark.parametrize(
    ("interpolation", "crop_pct", "size"),
    list(itertools.product(["bilinear", "bicubic"], [0.875, 0.9, 0.95, 1.0], [(224, 224), (288, 288), (32, 32)])),
)
def test_equals_timm_float_for_float(jpegs, interpolation, crop_pct, size):
    assert_equals_timm(config(size, interpolation, crop_pct), jpegs)


@pytest.mark.parametrize("crop_mode", ["squash", "border"])
def test_other_crop_modes_equal_timm(jpegs, crop_mode):
    for crop_pct, size in itertools.product([0.9, 1.0], [(96, 96), (64, 128)]):
        assert_equals_timm(config(size, "bicubic", crop_pct, crop_mode), jpegs)


@pytest.mark.parametrize("interpolation", ["nearest", "box", "hamming", "lanczos"])
def test_other_interpolations_equal_timm(jpegs, interpolation):
    assert_equals_timm(config((96, 96), interpolation), jpegs)


def test_other_shapes_equal_timm(jpegs):
    assert_equals_timm(config((160, 224), "bicubic", 0.95), jpegs)
    assert_equals_timm(config((97, 33)), jpegs)
    assert_equals_timm(config(channels=1), jpegs)
    assert_equals_timm(config((64, 64), crop_mode="border", channels=1), jpegs)


def test_the_default_is_the_first_caffe_models_transform():
    assert Preprocess() == Preprocess.from_timm(config())


def test_every_level_is_normalised_as_torch_does():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    mean, std = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
    ours = Preprocess((3, 16, 16), mean=mean, std=std).normalize(np.stack([levels] * 3, -1))
    scaled = torch.from_numpy(levels).float().div(255).expand(3, 16, 16)
    theirs = (scaled - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert torch.equal(torch.from_numpy(ours), theirs)


def test_parts_agree(jpegs):
    transform = Preprocess((3, 64, 48))
    images = [Image.open(path).convert("RGB") for path in jpegs[:3]]
    pixels = np.stack([transform.pixels(image) for image in images])
    assert pixels.dtype == np.uint8 and pixels.shape == (3, 64, 48, 3)
    batch = transform.normalize(pixels)
    assert batch.dtype == np.float32 and batch.shape == (3, 3, 64, 48) and batch.flags.c_contiguous
    for row, image in zip(batch, images, strict=True):
        assert np.array_equal(row, transform.array(image))
        assert np.array_equal(row, transform(image).numpy())
    assert transform.normalize(pixels[:0]).shape == (0, 3, 64, 48)


def test_a_tensor_is_its_own_and_not_the_pictures():
    image = Image.new("RGB", (224, 224), (10, 20, 30))
    Preprocess(crop_pct=1.0).pixels(image)[:] = 255
    assert image.getpixel((100, 100)) == (10, 20, 30)


def test_a_very_long_strip_needs_little_memory_and_keeps_its_middle():
    """65,535 x 2 pixels resized to a shorter edge of 256 would be 2 gigapixels."""
    ramp = np.linspace(0, 255, 65535).astype(np.uint8)
    strip = Image.fromarray(np.stack([ramp, ramp]))
    for image in (strip, strip.transpose(Image.Transpose.ROTATE_90)):
        pixels = Preprocess().pixels(image)
        assert pixels.shape == (224, 224, 3)
        assert set(np.unique(pixels)) <= {126, 127, 128}
    steps = Image.fromarray(np.tile(np.repeat(np.arange(0, 250, 50, dtype=np.uint8), 2000), (10, 1)))  # 10,000 x 10
    whole = np.asarray(steps.convert("RGB").resize((256_000, 256)).crop((127_888, 16, 128_112, 240)))
    assert np.abs(Preprocess().pixels(steps).astype(int) - whole).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (2, 3)])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_tiny_pictures(size, crop_mode):
    pixels = Preprocess((3, 32, 32), crop_mode=crop_mode).pixels(Image.new("RGB", size, (9, 8, 7)))
    assert pixels.shape == (32, 32, 3)
    assert [9, 8, 7] in pixels[15:17, 15:17].reshape(-1, 3).tolist()  # a border may fill all but one column


def test_other_modes_are_converted_as_pillow_does():
    grey = Image.new("L", (40, 40), 77)
    assert tuple(Preprocess((3, 8, 8)).pixels(grey)[0, 0]) == (77, 77, 77)
    assert Preprocess((1, 8, 8), mean=(0.5,), std=(0.5,)).pixels(grey.convert("RGB")).shape == (8, 8, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_size": 224}, "input_size must be numbers, not 224"),
        ({"input_size": (3, 224)}, "input_size must be"),
        ({"input_size": (3, 0, 224)}, "input_size must be"),
        ({"input_size": (3, 224.5, 224)}, "input_size must be"),
        ({"input_size": (3, 10**9, 224)}, "input_size must be"),
        ({"interpolation": "cubic"}, "interpolation must be one of nearest, bilinear, bicubic"),
        ({"interpolation": ["bicubic"]}, "interpolation must be one of"),
        ({"crop_mode": "middle"}, "crop_mode must be one of center, squash, border, not 'middle'"),
        ({"crop_pct": 0}, "crop_pct must lie between 0.01 and 1, not 0"),
        ({"crop_pct": 87.5}, "crop_pct must lie between"),
        ({"crop_pct": "large"}, "crop_pct must be numbers"),
        ({"crop_pct": math.nan}, "crop_pct must be finite"),
        ({"mean": (0.5,)}, "mean needs one number for each of the 3 channels"),
        ({"std": (0.2, 0.2, 0)}, "std must be at least 1e-6"),
        ({"std": (0.2, 0.2, math.inf)}, "std must be finite"),
        ({"mean": "abc"}, "mean must be numbers"),
    ],
)
def test_settings_are_validated(change, message):
    with pytest.raises(ConfigError, match=message):
        Preprocess(**change)
    if "input_size" in change or "mean" in change or "std" in change:
        with pytest.raises(ConfigError):
            Preprocess.from_timm({**config(), **change, "mean": change.get("mean", (0.5, 0.5))})


def test_wrong_inputs_are_refused():
    with pytest.raises(ImageError, match="a Pillow image is needed, not ndarray"):
        Preprocess()(np.zeros((8, 8, 3), np.uint8))
    for pixels in (np.zeros((8, 8, 3), np.float32), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 3), np.uint8)):
        with pytest.raises(ImageError, match="pixels must be uint8"):
            Preprocess().normalize(pixels)
    four = Preprocess().with_channels(4)
    with pytest.raises(ConfigError, match="this model takes 4"):
        four.pixels(Image.new("RGB", (8, 8)))
    assert four.normalize(np.zeros((8, 8, 4), np.uint8)).shape == (4, 8, 8)


def test_timm_configuration_goes_there_and_back():
    transform = Preprocess((3, 288, 256), "bicubic", 0.95, "border", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert Preprocess.from_timm(json.loads(json.dumps(transform.to_timm()))) == transform
    cfg = timm.create_model("legacy_seresnet18").pretrained_cfg
    resolved = timm.data.resolve_data_config(pretrained_cfg=cfg)
    ours = Preprocess.from_timm(cfg)
    assert {key: tuple(v) if isinstance(v, list) else v for key, v in ours.to_timm().items()} == resolved
    empty = timm.data.resolve_data_config(pretrained_cfg={"architecture": "x"})
    assert Preprocess.from_timm({}) == Preprocess(**empty)


def test_channels_follow_the_network():
    transform = Preprocess(mean=(0.1, 0.2, 0.3), std=(0.3, 0.6, 0.9))
    assert transform.with_channels(3) is transform
    grey = transform.with_channels(1)
    assert grey.input_size == (1, 224, 224)
    assert grey.mean == pytest.approx((0.2,)) and grey.std == pytest.approx((0.6,))
    assert transform.with_channels(5).mean == (0.1, 0.2, 0.3, 0.1, 0.2)
    assert Preprocess.from_timm({**config(), "input_size": (1, 32, 32)}).input_size == (1, 32, 32)


def test_importing_it_does_not_import_torch():
    code = "import sys, seresnet.data.preprocess; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [(200, 90), (90, 200), (33, 64), (20, 30), (301, 64)])
def test_the_region_is_where_the_pixels_come_from(mode, size):
    """Of a picture whose colour tells the place, the pixels of the crop tell where it lies."""
    transform = Preprocess((3, 48, 64), crop_mode=mode, crop_pct=0.875)
    columns, rows = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    picture = np.stack([columns, rows, np.full_like(rows, 255)], axis=-1).round().astype(np.uint8)
    seen = transform.pixels(Image.fromarray(picture)).astype(float)
    left, top, right, bottom = transform.region(size)
    inner = seen[..., 2] > 250  # not what is filled up
    for channel, (low, high, length, cells, axis) in enumerate(
        [(left, right, size[0], 64, 1), (top, bottom, size[1], 48, 0)]
    ):
        place = low + (np.arange(cells) + 0.5) * (high - low) / cells  # of a cell's centre, in the picture
        expected = np.clip((place - 0.5) / (length - 1), 0, 1) * 255
        expected = np.broadcast_to(expected[:, None] if axis == 0 else expected, seen.shape[:2])
        assert inner.any() and np.abs(seen[..., channel] - expected)[inner].max() < 2 + 255 / length
