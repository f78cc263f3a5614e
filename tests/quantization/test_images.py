"""Which images are chosen to calibrate on, and which to compare on."""

from collections import Counter
from pathlib import Path

import pytest

from seresnet.errors import DataError
from seresnet.quantization.images import COMPARED, choose_images, spread
from tests.made_images import color_folder

LABELS = ["red", "green", "blue"]  # not in the folders' order


def class_of(image: object) -> str:
    return Path(str(image)).parent.name


def test_half_of_a_small_data_set_is_compared_on_and_none_of_it_twice(tmp_path):
    chosen = choose_images(color_folder(tmp_path, per_class=6), 300, LABELS)
    assert len(chosen.calibrate) == len(chosen.compare) == 9
    assert len({*chosen.calibrate, *(image for image, _ in chosen.compare)}) == 18
    assert all(target is not None and LABELS[target] == class_of(image) for image, target in chosen.compare)


def test_the_classes_take_turns(tmp_path):
    folder = color_folder(tmp_path, per_class=8)
    for extra in range(50):
        (folder / "red" / f"more{extra}.png").write_bytes((folder / "red" / "000.png").read_bytes())
    chosen = choose_images(folder, 12, LABELS)
    assert Counter(map(class_of, chosen.calibrate)) == dict.fromkeys(LABELS, 4)
    assert Counter(class_of(image) for image, _ in chosen.compare[:12]) == dict.fromkeys(LABELS, 4)
    assert len(chosen.compare) == 74 - 12


def test_the_choice_is_the_same_each_time_but_not_the_first_files(tmp_path):
    folder = color_folder(tmp_path, per_class=20)
    first, again = (choose_images(folder, 15, LABELS) for _ in range(2))
    assert first == again
    assert {Path(str(image)).stem for image in first.calibrate} != {f"{i:03d}" for i in range(5)}


def test_of_a_data_set_in_parts_the_test_part_is_compared_on(tmp_path):
    for part in ("train", "validation", "test"):
        color_folder(tmp_path / part, per_class=3, seed=len(part))
    chosen = choose_images(tmp_path, 6, LABELS)
    assert {Path(str(image)).parts[-3] for image in chosen.calibrate} == {"train"}
    assert {Path(str(image)).parts[-3] for image, _ in chosen.compare} == {"test"}
    assert (len(chosen.calibrate), len(chosen.compare)) == (6, 9)


def test_a_lone_part_is_split(tmp_path):
    color_folder(tmp_path / "val", per_class=4)
    chosen = choose_images(tmp_path, 300, LABELS)
    assert (len(chosen.calibrate), len(chosen.compare)) == (6, 6)
    assert not set(chosen.calibrate) & {image for image, _ in chosen.compare}


def test_images_of_no_class_are_taken_from_a_plain_folder_and_below(tmp_path):
    folder = color_folder(tmp_path, per_class=4)
    (folder / "one.png").write_bytes((folder / "red" / "000.png").read_bytes())
    chosen = choose_images(folder, 300, LABELS)
    assert (len(chosen.calibrate), len(chosen.compare)) == (6, 7)
    assert {target for _, target in chosen.compare} == {None}


def test_folders_that_are_no_classes_of_the_model_are_said_to_be_none(tmp_path):
    chosen = choose_images(color_folder(tmp_path, per_class=4), 300, ["cat", "dog", "ship"])
    assert {target for _, target in chosen.compare} == {None}
    assert "blue, green, red" in chosen.notes[0]


def test_classes_of_which_some_are_unknown_are_refused(tmp_path):
    with pytest.raises(DataError, match="does not know: blue"):
        choose_images(color_folder(tmp_path, per_class=4), 300, ["red", "green", "yellow"])


def test_several_labels_an_image_are_none(tmp_path):
    color_folder(tmp_path, per_class=4)
    rows = [
        "path,labels",
        *(f"red/{i:03d}.png,red;warm" for i in range(4)),
        *(f"blue/{i:03d}.png,blue" for i in range(4)),
    ]
    (tmp_path / "list.csv").write_text("\n".join(rows))
    chosen = choose_images(tmp_path / "list.csv", 4, LABELS)
    assert {target for _, target in chosen.compare} == {None}
    assert "several classes" in chosen.notes[0]


def test_a_large_data_set_is_compared_on_a_part_of_it():
    samples = [(f"{i}.png", i % 7) for i in range(10 * COMPARED)]
    assert sorted(spread(samples)) == sorted(samples)
    assert [target for _, target in spread(samples)[:7]] == list(range(7))


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_no_image_is_refused_or_leaves_nothing_to_choose(name, tmp_path):
    (tmp_path / "empty").mkdir()
    if name == "empty":
        assert choose_images(tmp_path / name, 300, LABELS).compare == ()
    else:
        with pytest.raises(DataError, match="missing"):
            choose_images(tmp_path / name, 300, LABELS)
