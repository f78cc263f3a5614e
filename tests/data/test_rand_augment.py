"""RandAugment's operations do what the published ones do, and follow from the generator alone."""

import numpy as np
import pytest
from PIL import Image, ImageChops

from seresnet.data.augment import TrainCrop
from seresnet.data.preprocess import Preprocess
from seresnet.data.rand_augment import OPERATIONS, rand_augment
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


@pytest.mark.parametrize("magnitude", [0.0, 3.0, 7.0, 9.9])
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_timms(name, magnitude, sign, monkeypatch):
    from timm.data import auto_augment

    monkeypatch.setattr(auto_augment.random, "random", lambda: 0.9 if sign < 0 else 0.1)  # timm's toss for the sign
    hparams = {"img_mean": (128, 128, 128), "interpolation": Image.Resampling.BILINEAR, "magnitude_std": 0}
    published = auto_augment.AugmentOp(TIMM[name], prob=1.0, magnitude=magnitude, hparams=hparams)
    expected = published(picture())
    assert ImageChops.difference(OPERATIONS[name](picture(), sign * magnitude / 10), expected).getbbox() is None


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
