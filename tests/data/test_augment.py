"""Random crops have the areas they should, and the batch's augmentation does what its settings say."""

import numpy as np
import pytest
import torch
from PIL import Image

from seresnet.data.augment import BatchAugment, TrainCrop
from seresnet.preprocess import Preprocess

SMALL = Preprocess(input_size=(3, 16, 16), crop_pct=1.0)


def pixels(count: int = 64) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8))


def augment(**settings) -> BatchAugment:
    return BatchAugment(SMALL, **{"pad": 0, "hflip": 0.0, "rotation": 0.0, "erase": 0.0, **settings})


def test_boxes_have_the_areas_and_ratios_asked_for():
    crop, rng = TrainCrop("resized", SMALL, scale=(0.2, 0.9)), np.random.default_rng(1)
    boxes = np.array([crop.random_box((500, 500), rng) for _ in range(2000)])
    assert (boxes >= 0).all() and (boxes <= 500).all()
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area, ratio = w * h / 500**2, w / h
    assert 0.19 < area.min() < 0.25 and 0.8 < area.max() < 0.91
    assert 0.74 < ratio.min() < 0.77 and 1.3 < ratio.max() < 1.35
    assert np.median(ratio) == pytest.approx(1.0, abs=0.03)


def test_a_picture_too_narrow_for_any_box_gives_its_middle():
    box = TrainCrop("resized", SMALL, scale=(0.9, 1.0)).random_box((1000, 10), np.random.default_rng(0))
    assert box == (493, 0, 506, 10)


def test_a_resized_crop_shows_its_box():
    image = Image.effect_noise((60, 40), 80).convert("RGB")
    crop = TrainCrop("resized", SMALL)
    got = crop(image, np.random.default_rng(7))
    box = crop.random_box(image.size, np.random.default_rng(7))
    expected = np.asarray(image.crop(box).resize((16, 16), Image.Resampling.BILINEAR))
    assert got.shape == (16, 16, 3)
    assert np.array_equal(got, expected)


def test_without_augmentation_it_is_the_evaluation_transform():
    batch = pixels(4)
    expected = torch.from_numpy(SMALL.normalize(batch.numpy()))
    torch.testing.assert_close(augment()(batch), expected, rtol=1e-5, atol=1e-5)


def test_mirroring_mirrors_about_its_share():
    batch = pixels(400)
    plain, got = augment()(batch), augment(hflip=0.25)(batch)
    mirrored = sum(torch.equal(g, p.flip(-1)) for g, p in zip(got, plain, strict=True))
    kept = sum(torch.equal(g, p) for g, p in zip(got, plain, strict=True))
    assert mirrored + kept == 400
    assert 70 < mirrored < 130


def test_shifting_moves_by_whole_pixels_with_the_mean_colour_behind():
    plain, got = augment()(pixels(8)), augment(pad=3)(pixels(8))
    padded = torch.nn.functional.pad(plain, (3, 3, 3, 3))
    for image, wide in zip(got, padded, strict=True):
        windows = [wide[:, y : y + 16, x : x + 16] for y in range(7) for x in range(7)]
        assert min((image - window).abs().max() for window in windows) < 1e-5
    assert not torch.allclose(got, plain)


def test_rotation_and_erasing_change_what_they_should():
    plain = augment()(pixels(8))
    turned = augment(rotation=10.0)(pixels(8))
    assert turned.shape == plain.shape and not torch.allclose(turned, plain)
    erased = augment(erase=1.0)(pixels(8))
    changed = (erased != plain).any(1).float().mean((1, 2))
    assert ((changed > 0.01) & (changed < 0.5)).all()


def test_the_same_random_state_gives_the_same_batch():
    full = augment(pad=2, hflip=0.5, rotation=5.0, erase=0.5)
    torch.manual_seed(3)
    first = full(pixels())
    torch.manual_seed(3)
    assert torch.equal(first, full(pixels()))
