"""What a run says: short lines, a warning where it matters, and none where it does not."""

import logging
import shutil

import numpy as np
import pytest
from PIL import Image

from seresnet.data.folder import image_folder
from seresnet.data.image_hashes import image_hashes
from seresnet.errors import DataError
from seresnet.recipes import recipe
from seresnet.training.messages import (
    chance_score,
    duration,
    epoch_line,
    warn_of_duplicates,
    warn_of_small_input,
)
from seresnet.training.train import train
from tests.made_images import color_folder


@pytest.fixture(autouse=True)
def messages(caplog):
    caplog.set_level(logging.INFO, "seresnet")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1:00"), (725, "12:05"), (11525, "3:12:05")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize("score", ["val_top1", "val_map"])
def test_an_epoch_is_a_line_of_eighty_columns(score):
    row = {"epoch": 100, "train_loss": 10.04, "val_loss": 10.08, score: 1.0}
    line = epoch_line(row, 300, score, 1.0, 100, 359_999)
    assert line.startswith("epoch 100/300 loss 10.04 val 10.08 ")
    assert line.endswith("100.00% best 100.00% (100) ETA 99:59:59")
    assert len(line) <= 80
    for loss in (12.3456, 123.456, 1e20, float("nan"), float("inf")):
        worst = row | {"epoch": 999, "train_loss": loss, "val_loss": loss}
        assert len(epoch_line(worst, 999, score, 1.0, 999, 359_999)) <= 80
    usual = epoch_line(
        row | {"epoch": 15, "train_loss": 0.05, "val_loss": 0.08, score: 0.97}, 40, score, 0.98, 10, 4000
    )
    assert len(usual) <= 80


def folder_of(path, edge: int):
    for name in ("a", "b"):
        (path / name).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (edge + 50, edge), (i, 0, 0)).save(path / name / f"{i}.png")
    return image_folder(path).samples


def test_photographs_that_lose_most_of_their_pixels_are_told(tmp_path, caplog):
    warn_of_small_input(folder_of(tmp_path / "large", 400), 32)
    assert "photographs of about 400 pixels are reduced to 32: --model seresnet50.ra2_in1k keeps 224" in caplog.text
    caplog.clear()
    warn_of_small_input(folder_of(tmp_path / "small", 64), 32)
    assert not caplog.text


def test_a_validation_image_that_is_trained_on_is_named(tmp_path, caplog):
    root = color_folder(tmp_path / "data", per_class=4)
    train_set, val_set = image_folder(root), image_folder(color_folder(tmp_path / "val", per_class=4, seed=9))
    warn_of_duplicates(train_set, val_set, image_hashes(train_set.samples), image_hashes(val_set.samples))
    assert not caplog.text
    shutil.copy(root / "red" / "002.png", tmp_path / "val" / "blue" / "001.png")
    warn_of_duplicates(train_set, val_set, image_hashes(train_set.samples), image_hashes(val_set.samples))
    expected = "warning: 1 of 12 validation images is in the training set as well (blue/001.png is red/002.png)"
    assert expected in caplog.text


def test_chance_is_the_most_frequent_class():
    samples = [(None, int(i < 30)) for i in range(100)]
    assert chance_score(samples, False) == pytest.approx(0.7 + np.sqrt(0.7 * 0.3 / 100))
    assert chance_score([(None, 0)] * 5, False) == 0.0  # one class only: nothing can be said
    several = [(None, (0, 1)), (None, (0,)), (None, ()), (None, ())]
    assert chance_score(several, True) == pytest.approx(0.375 + np.sqrt(0.375 * 0.625 / 4))


def settings(**changes):
    return recipe("debug").updated({"size": 16, "global_batch_size": 8, "precision": "float32", **changes})


@pytest.mark.parametrize(("lr", "warned"), [(0.0, True), (0.1, False)])
def test_a_run_at_chance_is_warned_of(tmp_path, caplog, lr, warned):
    """Colours that say nothing of the class, and a rate of zero."""
    data = color_folder(tmp_path / "data", per_class=24)
    train(settings(lr=lr, epochs=3, ema_decay=None, seed=3), data, tmp_path / "run")
    assert ("no better than chance after 3 epochs" in caplog.text) == warned


def test_nothing_to_learn_or_to_validate_on_is_refused(tmp_path):
    color_folder(tmp_path / "single", per_class=1)
    with pytest.raises(DataError, match="no image is left for validation"):
        train(settings(), tmp_path / "single", tmp_path / "run")
    color_folder(tmp_path / "one", per_class=8)
    for name in ("red", "green"):
        shutil.rmtree(tmp_path / "one" / name)
    with pytest.raises(DataError, match="only one class"):
        train(settings(), tmp_path / "one", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_changed_image_is_another_data_set(tmp_path):
    data = color_folder(tmp_path / "data", per_class=12)
    train(settings(epochs=1), data, tmp_path / "run")
    moved = shutil.copytree(data, tmp_path / "moved")  # new times, same content: the same run
    train(settings(epochs=2), moved, tmp_path / "run", resume=True)
    for name in ("000.png", "001.png", "002.png"):  # some of them are held out
        shutil.copy(data / "blue" / "011.png", moved / "red" / name)
    with pytest.raises(Exception, match="is of another run"):
        train(settings(epochs=3), moved, tmp_path / "run", resume=True)
