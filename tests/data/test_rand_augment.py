"""RandAugment's operations do what timm's do, and depend on the generator alone."""

import random
from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageChops

from seresnet.data.augment import TrainCrop
from seresnet.data.preprocess import Preprocess
from seresnet.data.rand_augment import OPERATIONS, Settings, rand_augment
from tests.timm_import import timm  # noqa: F401

SMALL = Preprocess(input_size=(3, 32, 32), crop_pct=1.0)


def picture() -> Image.Image:
    y, x = np.mgrid[:32, :40]
    pixels = np.stack([x * 6, 128 + 100 * np.sin(y / 3), (x * y) % 251], -1)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


TIMM = {
    "autocontrast": "AutoContrast",
    "equalize": "Equalize",
    "invert": "Invert",
    "rotate": "Rotate",
    "posterize": "PosterizeIncreasing",
    "solarize": "SolarizeIncreasing",
    "solarize_add": "SolarizeAdd",
    "color": "ColorIncreasing",
    "contrast": "ContrastIncreasing",
    "brightness": "BrightnessIncreasing",
    "sharpness": "SharpnessIncreasing",
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "translate_x": "TranslateXRel",
    "translate_y": "TranslateYRel",
}


MEAN = (124, 116, 104)  # round(255 * ImageNet's mean), as timm's create_transform gives it


@pytest.mark.parametrize("magnitude", [0.0, 3.0, 7.0, 9.9, 10.0])
@pytest.mark.parametrize("resample", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC])
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_timms(name, magnitude, sign, resample, monkeypatch):
    from timm.data import auto_augment

    monkeypatch.setattr(auto_augment.random, "random", lambda: 0.9 if sign < 0 else 0.1)  # timm's toss for the sign
    hparams = {"img_mean": MEAN, "interpolation": resample, "magnitude_std": 0}
    published = auto_augment.AugmentOp(TIMM[name], prob=1.0, magnitude=magnitude, hparams=hparams)
    black = (name, magnitude) == ("posterize", 10.0)  # timm asks Pillow for 0 bits, which newer versions refuse
    expected = Image.new("RGB", picture().size) if black else published(picture())
    got = OPERATIONS[name](picture(), sign * magnitude / 10, Settings(MEAN, resample))
    assert ImageChops.difference(got, expected).getbbox() is None


def applied(augment, images: int = 1200) -> tuple[Counter, Counter, Counter, list[float]]:
    """Return how often operations, signs and resampling filters occur, and the strengths, over many images."""
    seen: list[tuple[str, float, int]] = []
    augment(seen, images)
    names, filters = Counter(name for name, *_ in seen), Counter(r for *_, r in seen)
    return names, Counter(np.sign(s) for _, s, _ in seen), filters, [abs(s) for _, s, _ in seen]


def ours(seen: list, images: int) -> None:
    def record(name):
        return lambda image, s, settings: seen.append((name, s, int(settings.resample))) or image

    with pytest.MonkeyPatch.context() as patch:
        for name in OPERATIONS:
            patch.setitem(OPERATIONS, name, record(name))
        for seed in range(images):
            rand_augment(picture(), 7.0, np.random.default_rng(seed))


def timms(seen: list, images: int) -> None:
    """timm's transform by its name, its rotation and shears replaced by functions that record their arguments."""
    from timm.data import auto_augment

    transform = auto_augment.rand_augment_transform("rand-m7-n2-mstd0.5-inc1", {"img_mean": MEAN})
    random.seed(0)
    np.random.seed(0)
    for op in transform.ops:
        ours_name = next(key for key, value in TIMM.items() if value == op.name)
        scale = {"Rotate": 30, "ShearX": 0.3, "ShearY": 0.3, "TranslateXRel": 0.45, "TranslateYRel": 0.45}.get(op.name)

        def record(image, *args, name=ours_name, scale=scale, **kwargs):
            strength = args[0] / scale if scale else np.nan
            seen.append((name, strength, int(random.choice(kwargs["resample"]))))
            return image

        op.aug_fn = record
    for _ in range(images):
        transform(picture())


def test_operations_strengths_and_filters_are_drawn_as_timm_draws_them():
    mine, theirs = applied(ours), applied(timms)
    for counts in (mine[0], theirs[0]):  # 1,200 of 2 x 0.5 operations among 15: 80 each, within five deviations
        assert len(counts) == 15 and all(35 < count < 125 for count in counts.values())
    for counts in (mine[2], theirs[2]):
        assert set(counts) == {int(r) for r in (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)}
        assert all(0.42 < count / sum(counts.values()) < 0.58 for count in counts.values())
    strengths = [np.array([s for s in found[3] if not np.isnan(s)]) for found in (mine, theirs)]
    assert np.mean(strengths[0]) == pytest.approx(np.mean(strengths[1]), abs=0.01) == pytest.approx(0.7, abs=0.01)
    assert np.std(strengths[0]) == pytest.approx(np.std(strengths[1]), abs=0.01)
    assert all(0.42 < mine[1][sign] / sum(mine[1].values()) < 0.58 for sign in (-1, 1))


def test_empty_pixels_get_the_fill():
    white = Image.new("RGB", (40, 40), "white")
    moved = OPERATIONS["translate_x"](white, 1.0, Settings((1, 2, 3), Image.Resampling.BILINEAR))
    assert moved.getpixel((39, 20)) == (1, 2, 3) and moved.getpixel((0, 20)) == (255, 255, 255)
    grey = OPERATIONS["rotate"](Image.new("L", (40, 40), 255), 1.0, Settings((7,)))
    assert grey.getpixel((0, 0)) == 7


def test_a_crop_fills_with_the_mean_of_its_data_set():
    """timm rounds 255 times the mean (create_transform)."""
    crop = TrainCrop("center", SMALL, rand_augment=9.0)
    assert crop.fill == MEAN


def test_the_list_of_operations_is_timms():
    from timm.data.auto_augment import _RAND_INCREASING_TRANSFORMS

    assert sorted(TIMM.values()) == sorted(_RAND_INCREASING_TRANSFORMS)


def test_up_to_two_operations_each_half_the_time():
    image = picture()
    results = [rand_augment(image, 7.0, np.random.default_rng(seed)) for seed in range(400)]
    untouched = sum(result is image for result in results)
    assert 70 < untouched < 135  # a quarter of 400 is 100, within five standard deviations
    again = [rand_augment(image, 7.0, np.random.default_rng(seed)) for seed in range(400)]
    assert all(np.array_equal(a, b) for a, b in zip(results, again, strict=True))


def test_a_crop_is_followed_by_operations_and_noise_and_is_then_no_longer_fixed():
    image = picture()
    plain = TrainCrop("center", SMALL)
    noisy = TrainCrop("center", SMALL, pixel_noise=20)
    assert plain.fixed and not noisy.fixed and not TrainCrop("center", SMALL, rand_augment=5.0).fixed
    before = plain(image, np.random.default_rng(0)).astype(int)
    after = noisy(image, np.random.default_rng(0)).astype(int)
    inside = (before >= 20) & (before <= 235)
    change = (after - before)[inside]
    assert change.min() == -20 and change.max() == 20
    assert abs(change.mean()) < 1.5  # of a uniform distribution with a standard deviation of 12, over 2,000 values
    assert change.std() == pytest.approx(np.sqrt((41**2 - 1) / 12), rel=0.05)
    assert after.min() >= 0 and after.max() <= 255
    changed = TrainCrop("resized", SMALL, rand_augment=9.0)
    cut = TrainCrop("resized", SMALL)
    seeds = range(20)
    pairs = [(changed(image, np.random.default_rng(s)), cut(image, np.random.default_rng(s))) for s in seeds]
    assert all(a.shape == b.shape == (32, 32, 3) and a.dtype == np.uint8 for a, b in pairs)
    assert 5 < sum(not np.array_equal(a, b) for a, b in pairs) <= 20
