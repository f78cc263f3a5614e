"""Random crops have the areas they should, and the batch's augmentation does what its settings say."""

import numpy as np
import pytest
import torch
from PIL import Image

from seresnet.data.augment import BatchAugment, TrainCrop, erased, uniform_samples
from seresnet.data.preprocess import Preprocess
from tests.timm_import import timm  # noqa: F401

SMALL = Preprocess(input_size=(3, 16, 16), crop_pct=1.0)


def pixels(count: int = 64) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8))


def augment(**settings) -> BatchAugment:
    return BatchAugment(SMALL, **{"pad": 0, "hflip": 0.0, "rotation": 0.0, "random_erasing_prob": 0.0, **settings})


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


def uniform(count: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(uniform_samples(seed, 0, count))


def test_mirroring_mirrors_about_its_share():
    batch = pixels(400)
    plain, got = augment()(batch), augment(hflip=0.25)(batch, uniform(400))
    mirrored = sum(torch.equal(g, p.flip(-1)) for g, p in zip(got, plain, strict=True))
    kept = sum(torch.equal(g, p) for g, p in zip(got, plain, strict=True))
    assert mirrored + kept == 400
    assert 70 < mirrored < 130


def test_shifting_moves_by_whole_pixels_with_the_mean_colour_behind():
    plain, got = augment()(pixels(8)), augment(pad=3)(pixels(8), uniform(8))
    padded = torch.nn.functional.pad(plain, (3, 3, 3, 3))
    for image, wide in zip(got, padded, strict=True):
        windows = [wide[:, y : y + 16, x : x + 16] for y in range(7) for x in range(7)]
        assert min((image - window).abs().max() for window in windows) < 1e-5
    assert not torch.allclose(got, plain)


def test_shifts_reach_all_distances_evenly():
    plain = augment()(pixels(1))
    wide = torch.nn.functional.pad(plain[0], (1, 1, 1, 1))
    windows = [wide[:, y : y + 16, x : x + 16] for y in range(3) for x in range(3)]
    got = augment(pad=1)(pixels(1).expand(900, -1, -1, -1), uniform(900))
    counts = [sum(torch.equal(image, window) for image in got) for window in windows]
    assert sum(counts) == 900
    assert all(70 < count < 135 for count in counts)


def test_rotation_turns_as_pillow_does():
    """A smooth picture, turned by known angles; Pillow turns the other way round and samples in its own way."""
    y, x = np.mgrid[:16, :16]
    smooth = np.stack([128 + 60 * np.sin(x / 4), 128 + 60 * np.cos(y / 5), 8 * (x + y)], -1).astype(np.uint8)
    draw = torch.full((3, 16), 0.5)
    draw[:, 0] = torch.tensor([0.0, 0.5, 0.9])  # of -20 to 20 degrees
    got = augment(rotation=20.0)(torch.from_numpy(smooth).expand(3, -1, -1, -1), draw)
    for image, degrees in zip(got, (-20.0, 0.0, 16.0), strict=True):
        turned = Image.fromarray(smooth).rotate(degrees, Image.Resampling.BILINEAR)
        expected = augment()(torch.from_numpy(np.array(turned))[None])[0]
        assert (image - expected)[:, 5:11, 5:11].abs().max() < 0.05


def test_erasing_sets_a_box_of_the_share_to_zero():
    plain = augment()(pixels(300))
    got = augment(random_erasing_prob=0.5)(pixels(300), uniform(300))
    hit = (got != plain).any(1)  # (N, H, W)
    areas = hit.float().mean((1, 2))
    assert 110 < int((areas > 0).sum()) < 190
    assert areas[areas > 0].min() < 0.06 and 0.25 < areas.max() < 0.4
    for image, mask in zip(got, hit, strict=True):
        rows, columns = mask.any(1), mask.any(0)
        assert int(mask.sum()) == int(rows.sum() * columns.sum())  # a full box
        assert (image[:, mask] == 0).all()


def test_erasing_reaches_the_areas_and_aspects_of_timms():
    """The defaults of timm's class: 2 % to 1/3 of the area, aspect 0.3 to 1/0.3, filled with the mean color."""
    from timm.data.random_erasing import RandomErasing

    theirs = RandomErasing()
    draw = torch.full((2, 16), 0.5)
    draw[:, [4, 5]] = torch.tensor([[0.0, 0.0], [0.0, 1.0]])  # erased; the smallest and the largest box
    large = torch.ones(2, 1000, 1000, 1)
    share = 1 - erased(large, draw, 1.0).mean((1, 2, 3))
    assert share.tolist() == pytest.approx([theirs.min_area, theirs.max_area], rel=1e-2)
    draw[:, [5, 6]] = torch.tensor([[0.5, 0.0], [0.5, 1.0]])  # the widest and the tallest
    boxes = erased(large, draw, 1.0)[..., 0] == 0
    ratios = [int(box.any(1).sum()) / int(box.any(0).sum()) for box in boxes]
    assert np.log(ratios) == pytest.approx(theirs.log_aspect_ratio, rel=1e-2)
    assert theirs.mode == "const"  # zero, which is the mean color after normalisation


def test_random_interpolation_draws_bilinear_and_bicubic():
    image = Image.effect_noise((60, 40), 80).convert("RGB")
    crop, plain = TrainCrop("resized", SMALL, random_interpolation=True), TrainCrop("resized", SMALL)
    counts = {"bilinear": 0, "bicubic": 0}
    for seed in range(200):
        got, box = crop(image, np.random.default_rng(seed)), plain.random_box(image.size, np.random.default_rng(seed))
        for name in counts:
            resized = image.crop(box).resize((16, 16), Image.Resampling[name.upper()])
            counts[name] += np.array_equal(got, np.asarray(resized))
    assert sum(counts.values()) == 200 and min(counts.values()) > 65


def test_an_image_is_changed_in_the_same_way_in_whatever_part_of_the_batch():
    full, batch, rows = augment(pad=2, hflip=0.5, rotation=5.0, random_erasing_prob=0.5), pixels(), uniform(64)
    whole = full(batch, rows)
    assert torch.equal(whole[1::3], full(batch[1::3], rows[1::3]))
    assert not torch.equal(whole, full(batch, uniform(64, seed=1)))
