"""What people download: where the splits and classes are, what is ignored, and what is refused with the fix."""

import os
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from seresnet.data.classes import match_classes
from seresnet.data.names import natural_key
from seresnet.data.open_dataset import open_data, open_labelled
from seresnet.data.paths import expand
from seresnet.errors import DataError
from seresnet.weights.labels import imagenet_1k


def jpeg(color=(200, 30, 30)) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (8, 8), color).save(buffer, "JPEG")
    return buffer.getvalue()


def fill(root: Path, *names: str, data: bytes | None = None) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg() if data is None else data)
    return root


def names_of(images) -> set[str]:
    return {Path(path).name for path, _ in images.samples}


@pytest.mark.parametrize("train", ["train", "Train", "TRAINING", "training_set"])
@pytest.mark.parametrize("validation", ["val", "Valid", "VALIDATION", "dev"])
def test_splits_are_known_by_their_usual_names(tmp_path, caplog, train, validation):
    fill(tmp_path, *(f"{split}/{name}/a.jpg" for split in (train, validation) for name in ("cat", "dog")))
    fill(tmp_path, "README.roboflow.txt", "extra/x.jpg")
    splits = open_data(tmp_path)
    assert splits.train.classes == splits.validation.classes == ("cat", "dog")
    assert "ignored beside the splits: extra" in caplog.text


def test_a_class_may_be_called_train(tmp_path):
    fill(tmp_path, "aeroplane/a.jpg", "bus/a.jpg", "train/a.jpg")
    assert open_data(tmp_path).train.classes == ("aeroplane", "bus", "train")


def test_flat_splits_are_not_classes(tmp_path):
    fill(tmp_path, "train/cat.0.jpg", "test/1.jpg")
    with pytest.raises(DataError, match="no class folders in test, train"):
        open_data(tmp_path)
    fill(tmp_path, "cat/a.jpg")
    with pytest.raises(DataError, match="no class folders in test, train; where these are classes as cat, rename them"):
        open_data(tmp_path)


@pytest.mark.parametrize("test", ["test/x.jpg", "test/unknown/x.jpg", "test/notes.txt", "test/a/b/c/x.heic"])
def test_training_looks_at_nothing_in_test(tmp_path, test):
    fill(tmp_path, *(f"{split}/{name}/a.jpg" for split in ("train", "val") for name in ("cat", "dog")), test)
    assert open_data(tmp_path).train.classes == ("cat", "dog")


def test_evaluation_takes_test_or_else_validation_or_else_train_and_says_which(tmp_path, caplog):
    fill(tmp_path, *(f"train/{name}/{i}.jpg" for name in ("cat", "dog") for i in (1, 2)))
    assert open_labelled(tmp_path).split == "train"
    fill(tmp_path, "val/cat/v.jpg", "test/unlabelled.jpg")
    assert names_of(open_labelled(tmp_path)) == {"v.jpg"}
    assert "test split is left out" in caplog.text and "using the validation split" in caplog.text
    fill(tmp_path, "test/cat/t.jpg")
    assert names_of(open_labelled(tmp_path)) == {"t.jpg"}
    assert len(open_labelled(tmp_path, split="train").samples) == 4
    with pytest.raises(DataError, match="split 'all' is not one of train, validation and test"):
        open_labelled(tmp_path, split="all")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["a/cat/1.jpg", "a/dog/1.jpg"], r"one level too high; give .*/a$"),
        (["a/b/cat/1.jpg", "a/b/dog/1.jpg"], r"one level too high; give .*/a/b$"),
        (["a/train/cat/1.jpg", "a/val/cat/1.jpg"], r"one level too high; give .*/a$"),
        (["cat/1.jpg", "cat/2.jpg"], "only one class, cat"),
        (["1.jpg", "2.jpg"], "has images directly in it and no class folders"),
        (["images/1.jpg", "labels/1.txt"], "class folders without an image: labels"),
        (["cat/1.jpg", "dog/1.heic"], "class folders without an image: dog"),
        (["train/cat/1.jpg", "Train/cat/1.jpg"], "are both the train split"),
        (["val/cat/1.jpg", "dev/cat/1.jpg", "train/cat/1.jpg"], "are both the validation split"),
        ([f"{c}/{s}/1.jpg" for c in ("cat", "dog") for s in ("train", "test")], r"put the splits above .*/train/cat"),
        (
            [f"{s}{i}/{c}/1.jpg" for c in ("cat", "dog") for s, i in (("train", 1), ("val", 1))],
            "look like splits or folds",
        ),
        ([f"Fold_{i}/{c}/1.jpg" for c in ("cat", "dog") for i in (1, 2, 3)], "look like splits or folds"),
        ([f"train/{c}/1.jpg" for c in ("Cat", "dog")] + ["val/cat/1.jpg"], "'cat' is 'Cat' there: rename one"),
        ([f"train/{c}/1.jpg" for c in ("cat ", "dog")] + ["val/cat/1.jpg"], "'cat' is 'cat ' there: rename one"),
        (["-1/1.jpg", "0/1.jpg", "1/1.jpg"], r"test_what.*: label -1 is not a class"),
        (["inner.zip"], r"holds inner\.zip and no class folders; unpack it"),
        (["labels.csv"], r"to use the list in it, give .*labels\.csv"),
    ],
)
def test_what_is_refused_says_what_to_give(tmp_path, files, message):
    for name in files:
        fill(tmp_path, name, data=b"no image" if name.endswith((".txt", ".heic", ".csv")) else None)
    with pytest.raises(DataError, match=message) as refused:
        open_data(tmp_path)
    assert "\n" not in str(refused.value)


HIDDEN = [".DS_Store", "._1.jpg", "Thumbs.db", "desktop.ini", "@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg", ".git/x.jpg"]
HIDDEN += [".ipynb_checkpoints/1-checkpoint.jpg", "__MACOSX/._1.jpg", "#recycle/1.jpg", "$RECYCLE.BIN/1.jpg"]


@pytest.mark.parametrize("name", HIDDEN)
def test_what_systems_leave_behind_is_ignored_everywhere(tmp_path, name):
    fill(tmp_path, "cat/1.jpg", "dog/1.jpg", f"cat/deep/{name}", f"dog/{name}", name)
    images = open_data(tmp_path).train
    assert len(images.samples) == 2 and images.classes == ("cat", "dog")
    assert len(list(expand([tmp_path]))) == 2


def test_images_are_told_by_content_and_side_files_are_counted(tmp_path, caplog):
    fill(tmp_path, "cat/1.jpg", "dog/1.jpg", "cat/download", "cat/x.jpg_large", "cat/photo.txt")
    fill(tmp_path, "cat/notes.txt", "cat/1.xml", "dog/list.pdf", data=b"text")
    fill(tmp_path, "cat/IMG_1.HEIC", data=b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    images = open_data(tmp_path).train
    assert names_of(images) == {"1.jpg", "download", "x.jpg_large", "photo.txt", "IMG_1.HEIC"}
    assert "ignored 3 side files (.pdf, .txt, .xml)" in caplog.text
    assert {Path(path).name for path in expand([tmp_path])} == names_of(images)


def test_links_are_followed_once_and_loops_end(tmp_path):
    pool = fill(tmp_path / "pool", "a/1.jpg", "a/2.jpg")
    root = fill(tmp_path / "data", "dog/1.jpg")
    (root / "cat").symlink_to(pool / "a")
    (root / "dog" / "loop").symlink_to(root)
    (root / "dog" / "up").symlink_to(tmp_path)
    (root / "dog" / "gone.jpg").symlink_to(tmp_path / "missing.jpg")
    images = open_data(root).train
    assert images.counts() == [2, 2]
    (root / "kitty").symlink_to(root / "dog")
    with pytest.raises(DataError, match="are the same folder, so not two classes"):
        open_data(root)


def test_many_links_between_folders_end(tmp_path):
    for i in range(20):
        fill(tmp_path, f"x/{i}/a.jpg")
    for i in range(20):
        for j in range(20):
            (tmp_path / "x" / str(i) / f"to{j}").symlink_to(tmp_path / "x" / str(j))
    assert len(list(expand([tmp_path / "x"]))) == 20
    assert len(list(expand([tmp_path / "x" / "0"]))) == 20


def test_names_compare_in_one_form_of_unicode_and_numbers_as_numbers(tmp_path):
    fill(tmp_path, "train/caf\u00e9/1.jpg", "train/tea/1.jpg", "val/cafe\u0301/2.jpg")
    splits = open_data(tmp_path)
    assert splits.train.classes == ("caf\u00e9", "tea") and splits.validation.counts() == [1, 0]
    numbers = fill(tmp_path / "n", *(f"{i}/1.jpg" for i in range(12)))
    assert open_data(numbers).train.classes == tuple(map(str, range(12)))
    assert sorted(["img10", "img9", "Img1", "img09"], key=natural_key) == ["Img1", "img09", "img9", "img10"]


def test_a_zip_of_windows(tmp_path, monkeypatch):
    monkeypatch.setenv("SERESNET_CACHE", str(tmp_path / "cache"))
    archive = tmp_path / "data.zip"
    with zipfile.ZipFile(archive, "w") as bag:
        for name in ("photos\\caf\u00e9\\1.jpg", "photos\\tea\\1.jpg", "photos\\tea\\Thumbs.db"):
            entry = zipfile.ZipInfo("x")
            entry.filename, entry.create_system = name, 0
            bag.writestr(entry, jpeg())
    assert open_data(archive).train.classes == ("caf\u00e9", "tea")


@pytest.mark.parametrize("name", [b"caf\x82", "caf\u00e9".encode()])  # code page 437, and UTF-8 without its flag
def test_names_of_old_zip_programs(tmp_path, monkeypatch, name):
    monkeypatch.setenv("SERESNET_CACHE", str(tmp_path / "cache"))
    archive = tmp_path / "data.zip"
    with zipfile.ZipFile(archive, "w") as bag:
        for folder in ("x" * len(name), "tea"):
            bag.writestr(f"{folder}/1.jpg", jpeg())
    archive.write_bytes(archive.read_bytes().replace(b"x" * len(name) + b"/1.jpg", name + b"/1.jpg"))
    assert open_data(archive).train.classes == ("caf\u00e9", "tea")


def test_imagenet_as_kaggle_has_it(tmp_path):
    ids = imagenet_1k()[0][:3]
    base = tmp_path / "ILSVRC" / "Data" / "CLS-LOC"
    fill(base, *(f"train/{wnid}/{wnid}_1.JPEG" for wnid in ids), "test/ILSVRC2012_test_00000001.JPEG")
    fill(base / "val", *(f"ILSVRC2012_val_{i:08d}.JPEG" for i in (1, 2, 3)))
    with pytest.raises(DataError, match="no validation split that can be used"):
        open_labelled(tmp_path, split="validation")
    rows = [f"ILSVRC2012_val_{i:08d},{ids[3 - i]} 1 2 3 4" for i in (3, 1, 2)]
    (tmp_path / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *rows]))
    for root in (tmp_path, tmp_path / "ILSVRC", base):
        images = open_labelled(root)
        assert images.split == "validation" and [target for _, target in images.samples] == [2, 1, 0]
        assert len(open_data(root).validation.samples) == 3


def test_imagenet_with_the_development_kit(tmp_path):
    scipy = pytest.importorskip("scipy.io")
    import numpy as np

    ids = imagenet_1k()[0][:3]
    fill(tmp_path, *(f"train/{wnid}/{wnid}_1.JPEG" for wnid in ids))
    fill(tmp_path, *(f"val/ILSVRC2012_val_{i:08d}.JPEG" for i in (1, 2, 3)))
    kit = tmp_path / "ILSVRC2012_devkit_t12" / "data"
    kit.mkdir(parents=True)
    synsets = np.array([(30, ids[0]), (10, ids[1]), (20, ids[2])], [("ILSVRC2012_ID", "O"), ("WNID", "O")])
    scipy.savemat(kit / "meta.mat", {"synsets": synsets})
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text("10\n20\n30\n")
    assert [target for _, target in open_labelled(tmp_path).samples] == [1, 2, 0]


def test_names_of_imagenet_in_every_form_match():
    ids, labels = imagenet_1k()
    lines = Path(imagenet_1k.__wrapped__.__code__.co_filename).with_name("imagenet_1k.tsv").read_text().splitlines()
    lemmas = [line.split("\t")[1] for line in lines]
    bare = [name.replace(" (bird)", "").replace(" (machine)", "") for name in lemmas]
    for classes in (ids, labels, lemmas, bare):
        assert match_classes(classes, labels, ids)[0] == list(range(1000))
    indices, notes = match_classes(["0", "7", "999"], labels, ids)
    assert indices == [0, 7, 999] and "class indices" in notes[0]
    with pytest.raises(DataError, match="as indices they would have to be 0 to 999"):
        match_classes(["1", "1000"], labels, ids)


def test_names_are_never_mistaken_for_placeholders():
    labels = ["class 0", "class 1", "class 2"]
    assert match_classes(["class 2", "class 1"], labels)[0] == [2, 1]
    assert match_classes(["owl", "cat", "dog"], labels)[0] == [0, 1, 2]
    with pytest.raises(DataError, match="does not know: cat"):
        match_classes(["class 1", "cat", "dog"], labels)


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX alone")
def test_names_that_are_not_utf8(tmp_path):
    fill(tmp_path, "cat/1.jpg", os.fsdecode(b"\xb9\xb7/1.jpg"))
    images = open_data(tmp_path).train
    assert len(images.classes) == 2 and len(images.fingerprint()) == 64


def test_a_changed_image_changes_the_fingerprint(tmp_path):
    root = fill(tmp_path, "cat/1.jpg", "dog/1.jpg")
    before = open_data(root).train.fingerprint()
    fill(root, "cat/1.jpg", data=jpeg((30, 200, 30)))
    assert open_data(root).train.fingerprint() != before


def tiny_imagenet(root: Path) -> Path:
    ids = ("n01443537", "n01629819", "n02123045")
    fill(root, *(f"train/{wnid}/images/{wnid}_{i}.JPEG" for wnid in ids for i in (0, 1)), "test/images/test_0.JPEG")
    fill(root, *(f"train/{wnid}/{wnid}_boxes.txt" for wnid in ids), "wnids.txt", data=b"x")
    fill(root / "val" / "images", *(f"val_{i}.JPEG" for i in (0, 1, 2, 10)))
    truth = {0: ids[2], 1: ids[0], 2: ids[1], 10: ids[2]}
    lines = [f"val_{i}.JPEG\t{wnid}\t0\t32\t44\t62\n" for i, wnid in truth.items()]
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    return root


def test_tiny_imagenet_as_it_is_published(tmp_path, caplog):
    found = open_data(tiny_imagenet(tmp_path))
    assert found.train.classes == found.validation.classes == ("n01443537", "n01629819", "n02123045")
    assert [(path.name, target) for path, target in found.validation.samples] == [
        *(("val_0.JPEG", 2), ("val_1.JPEG", 0), ("val_2.JPEG", 1), ("val_10.JPEG", 2))
    ]
    images = open_labelled(tmp_path)
    assert images.split == "validation" and len(images.samples) == 4
    assert "the test split is left out: its images lie in one folder, images" in caplog.text


def test_tiny_imagenet_with_a_photograph_that_is_not_annotated(tmp_path):
    fill(tiny_imagenet(tmp_path), "val/images/val_3.JPEG")
    with pytest.raises(DataError, match=r"val_3\.JPEG: is not named in .*val_annotations\.txt"):
        open_data(tmp_path)


def test_tiny_imagenet_sorted_into_class_folders_by_a_script(tmp_path):
    tiny_imagenet(tmp_path)
    (tmp_path / "val" / "images" / "val_0.JPEG").unlink()
    fill(tmp_path / "val", "n02123045/val_0.JPEG", "n01443537/val_1.JPEG")
    for path in (tmp_path / "val" / "images").iterdir():
        path.unlink()
    (tmp_path / "val" / "images").rmdir()
    assert [target for _, target in open_data(tmp_path).validation.samples] == [0, 2]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("Cat", "cat", "dog"), "'Cat' and 'cat' differ in case"),
        (("01", "1", "2"), "'01' and '1' differ in case, spaces or zeros alone"),
        (("cat", "cat ", "dog"), "'cat' and 'cat ' differ in case, spaces"),
        (("images", "masks"), "the classes are the folders in it, images, masks"),
        (("class 10", "class 1", "1000", "100"), None),
        (("fold1", "fold2"), None),  # with images directly in them, these are classes
    ],
)
def test_classes_that_may_be_one_or_none_are_said(tmp_path, caplog, classes, message):
    fill(tmp_path, *(f"{name}/{i}.jpg" for name in classes for i in (1, 2)))
    assert set(open_data(tmp_path).train.classes) == set(classes)
    assert message in caplog.text if message else not caplog.text


def test_folders_of_kinds_within_each_class_are_not_splits(tmp_path):
    fill(tmp_path, *(f"{name}/{kind}/1.jpg" for name in ("cat", "dog") for kind in ("original", "cropped")))
    assert open_data(tmp_path).train.classes == ("cat", "dog")
