"""Folders of classes: what is listed, how parts are found and held out, and what is refused."""

import shutil
from collections import Counter

import pytest

from seresnet.data.dataset import hold_out
from seresnet.data.folder import image_folder
from seresnet.data.open_dataset import open_data, open_splits
from seresnet.errors import DataError
from tests.made_images import color_folder


def test_lists_every_image_once_with_its_class(tmp_path):
    root = color_folder(tmp_path / "data", per_class=3)
    (root / "red" / "deeper").mkdir()
    shutil.copy(root / "red" / "000.png", root / "red" / "deeper" / "UPPER.PNG")
    (root / "red" / "notes.txt").write_text("no image")
    (root / ".cache").mkdir()
    folder = image_folder(root)
    assert folder.classes == ("blue", "green", "red")
    assert folder.counts() == [3, 3, 4]
    assert all(path.relative_to(root).parts[0] == folder.classes[target] for path, target in folder.samples)
    assert len(set(folder.samples)) == 10


def test_fingerprint_follows_the_content_and_not_the_place(tmp_path):
    one = color_folder(tmp_path / "one", per_class=2)
    other = shutil.copytree(one, tmp_path / "other")
    assert image_folder(one).fingerprint() == image_folder(other).fingerprint()
    (other / "red" / "001.png").rename(other / "red" / "002.png")
    assert image_folder(one).fingerprint() != image_folder(other).fingerprint()


@pytest.mark.parametrize("validation", ["validation", "val", "valid"])
def test_finds_the_parts(tmp_path, validation):
    for part, count in (("train", 4), (validation, 2), ("test", 1)):
        color_folder(tmp_path / part, per_class=count)
    assert {name: len(images.samples) for name, images in open_splits(tmp_path).items()} == {
        "train": 12,
        "validation": 6,
        "test": 3,
    }


def test_a_folder_of_classes_is_all_training(tmp_path):
    splits = open_data(color_folder(tmp_path / "data", per_class=2))
    assert len(splits.train.samples) == 6
    assert splits.validation is None


def test_a_validation_class_keeps_its_training_index(tmp_path):
    color_folder(tmp_path / "train", per_class=2)
    shutil.rmtree(color_folder(tmp_path / "val", per_class=2) / "blue")
    assert {target for _, target in open_data(tmp_path).validation.samples} == {1, 2}


def test_holds_out_the_same_share_of_each_class(tmp_path):
    root = color_folder(tmp_path / "data", per_class=20)
    for i in range(20, 40):
        shutil.copy(root / "red" / "000.png", root / "red" / f"{i:03d}.png")
    folder = image_folder(root)
    train, held = hold_out(folder, 0.1, seed=3)
    assert Counter(target for _, target in held.samples) == {0: 2, 1: 2, 2: 4}
    assert sorted(train.samples + held.samples) == sorted(folder.samples)
    assert held == hold_out(folder, 0.1, seed=3)[1]
    assert held != hold_out(folder, 0.1, seed=4)[1]


def test_a_class_of_one_image_stays_in_training(tmp_path):
    root = color_folder(tmp_path / "data", per_class=1)
    with pytest.raises(DataError, match="no image is left for validation"):
        hold_out(image_folder(root), 0.5, seed=0)
    shutil.copy(root / "red" / "000.png", root / "red" / "001.png")
    train, held = hold_out(image_folder(root), 0.5, seed=0)
    assert train.counts() == [1, 1, 1] and held.counts() == [0, 0, 1]


def test_refusals(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        image_folder(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no sub-folders"):
        image_folder(tmp_path / "empty")
    data = color_folder(tmp_path / "data", per_class=1)
    (data / "mauve").mkdir()
    with pytest.raises(DataError, match="without an image: mauve"):
        image_folder(data)
    with pytest.raises(DataError, match="not in the training split: red"):
        image_folder(data, ["blue", "green", "mauve"])
    color_folder(tmp_path / "parts" / "test", per_class=1)
    with pytest.raises(DataError, match="has no train split, only test"):
        open_data(tmp_path / "parts")
