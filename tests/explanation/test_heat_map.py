"""Where a map lies on its picture: against torch's interpolation, by hand, and by markers that the network sees."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from seresnet.data.preprocess import Preprocess
from seresnet.explanation.heat_map import colours, heat_map, hottest_box, overlay


def test_over_the_whole_picture_it_is_torchs_bilinear_interpolation():
    cam = np.random.default_rng(0).random((7, 5)).astype(np.float32)
    expected = F.interpolate(torch.from_numpy(cam / cam.max())[None, None], (64, 40), mode="bilinear")[0, 0].numpy()
    np.testing.assert_allclose(heat_map(cam, (0, 0, 40, 64), (40, 64)), expected, atol=1e-6)


def test_what_the_network_does_not_see_has_no_heat():
    heat = heat_map(np.ones((2, 2), np.float32), (10, 0, 30, 20), (40, 20))
    assert np.isnan(heat[:, :10]).all() and np.isnan(heat[:, 30:]).all()
    np.testing.assert_allclose(heat[:, 10:30], 1)


def test_rows_are_those_of_the_whole():
    cam = np.random.default_rng(0).random((3, 3)).astype(np.float32)
    whole = heat_map(cam, (2.5, -1, 17, 33), (20, 30))
    np.testing.assert_array_equal(heat_map(cam, (2.5, -1, 17, 33), (20, 30), range(7, 19)), whole[7:19])


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [(200, 90), (90, 200), (64, 64), (20, 30), (301, 64)])
def test_a_marker_that_the_network_sees_at_a_place_is_hot_there(mode, size):
    """Mark a spot of the picture, find it in the preprocessed pixels, and map that place back."""
    preprocess = Preprocess((3, 64, 64), crop_pct=0.875, crop_mode=mode)
    x, y = int(size[0] * 0.45), int(size[1] * 0.6)
    picture = np.zeros((size[1], size[0], 3), np.uint8)
    radius = max(1, max(size) // 32)
    picture[y - radius : y + radius + 1, x - radius : x + radius + 1] = 255
    seen = preprocess.pixels(Image.fromarray(picture)).astype(np.float32)
    cam = np.where((seen.min(axis=2) > 150), seen.mean(axis=2), 0)  # not what is filled up with the mean colour
    heat = np.nan_to_num(heat_map(cam, preprocess.region(size), size))
    rows, columns = np.mgrid[: size[1], : size[0]]
    weight = heat / heat.sum()
    assert abs((weight * columns).sum() - x) < max(size) / 64 + 0.6
    assert abs((weight * rows).sum() - y) < max(size) / 64 + 0.6


def test_the_box_encloses_the_hottest_region_alone():
    cam = np.zeros((8, 8), np.float32)
    cam[2, 3], cam[7, 7] = 1.0, 0.8
    box = hottest_box(cam, (0, 0, 80, 80), (80, 80), Preprocess((3, 80, 80)))
    left, top, right, bottom = box
    assert left <= 35 < right and top <= 25 < bottom and right - left <= 12 and bottom - top <= 12
    # Half of the maximum lies half a cell from its centre, which is 5 pixels.
    assert (left, top, right, bottom) == (30, 20, 40, 30)


def test_the_box_is_in_the_pictures_pixels():
    cam = np.zeros((8, 8), np.float32)
    cam[2, 3] = 1
    assert hottest_box(cam, (100, 0, 260, 160), (360, 160), Preprocess((3, 80, 80))) == [160, 40, 180, 60]


def test_there_is_no_box_where_nothing_speaks_for_the_class():
    assert hottest_box(np.zeros((4, 4), np.float32), (0, 0, 8, 8), (8, 8), Preprocess((3, 8, 8))) is None


def test_an_overlay_keeps_size_and_cold_places_and_darkens_what_is_not_seen():
    picture = np.full((600, 40, 3), 200, np.uint8)
    cam = np.zeros((600, 20), np.float32)
    cam[300, 10] = 1
    drawn = np.asarray(overlay(Image.fromarray(picture), cam, (10, 0, 30, 600)))
    assert drawn.shape == picture.shape
    assert (drawn[100, 20] == 200).all() and (drawn[:, :10] == 70).all() and (drawn[:, 30:] == 70).all()
    np.testing.assert_array_equal(drawn[300, 20], (0.25 * 200 + 0.75 * colours(np.float32(1))).round())
