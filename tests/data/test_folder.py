"""Folders of classes: what is listed, how parts are found and held out, and what is refused."""

import shutil
from collections import Counter

import pytest

from seresnet.data.dataset import hold_out
from seresnet.data.folder import find_splits, image_folder
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
    splits = find_splits(tmp_path)
    assert [len(part.samples) for part in (splits.train, splits.validation, splits.test)] == [12, 6, 3]


def test_a_folder_of_classes_is_all_training(tmp_path):
    splits = find_splits(color_folder(tmp_path / "data", per_class=2))
    assert len(splits.train.samples) == 6
    assert splits.validation is splits.test is None


def test_a_validation_class_keeps_its_training_index(tmp_path):
    color_folder(tmp_path / "train", per_class=2)
    shutil.rmtree(color_folder(tmp_path / "val", per_class=2) / "blue")
    assert {target for _, target in find_splits(tmp_path).validation.samples} == {1, 2}


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
    train, held = hold_out(image_folder(color_folder(tmp_path / "data", per_class=1)), 0.5, seed=0)
    assert len(train.samples) == 3
    assert not held.samples


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
    with pytest.raises(DataError, match="not in the training set: red"):
        image_folder(data, ["blue", "green", "mauve"])
    color_folder(tmp_path / "parts" / "test", per_class=1)
    with pytest.raises(DataError, match="no train folder"):
        find_splits(tmp_path / "parts")
