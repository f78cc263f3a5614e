"""CSV, TSV and parquet lists: what is read, and what is refused in one line."""

from pathlib import Path

import numpy as np
import pytest

from seresnet.data.augment import TrainCrop
from seresnet.data.dataset import hold_out
from seresnet.data.folder import image_folder
from seresnet.data.loader import Loader
from seresnet.data.open_dataset import open_data, open_labelled, open_splits
from seresnet.data.preprocess import Preprocess
from seresnet.errors import DataError
from tests.made_images import color_folder


@pytest.fixture
def root(tmp_path) -> Path:
    return color_folder(tmp_path / "colors", per_class=4)


def csv(root: Path, text: str, name: str = "list.csv") -> Path:
    (root / name).write_text(text, encoding="utf-8")
    return root / name


def parquet(root: Path, **columns) -> Path:
    import pyarrow
    from pyarrow.parquet import write_table

    write_table(pyarrow.table(columns), root / "list.parquet")
    return root / "list.parquet"


def rows_of(images) -> set[tuple[str, str]]:
    return {(path.relative_to(images.root).as_posix(), images.classes[target]) for path, target in images.samples}


def test_a_list_of_all_images_is_the_folder(root):
    folder = image_folder(root)
    lines = [f"{path.relative_to(root)},{folder.classes[target]}" for path, target in folder.samples]
    listed = open_data(csv(root, "\n".join(["path,label", *lines])))
    assert listed.validation is None
    assert listed.train.classes == folder.classes
    assert rows_of(listed.train) == rows_of(folder)
    assert listed.train.fingerprint() == folder.fingerprint()


@pytest.mark.parametrize("form", ["csv", "tsv", "parquet"])
def test_the_split_column_makes_parts(root, form):
    paths = ["red/000.png", "blue/000.png", "red/001.png", "blue/001.png", "./red/../red/002.png"]
    labels, splits = ["warm", "cold", "warm", "cold", "warm"], ["train", "train", "val", "Test", ""]
    if form == "parquet":
        source = parquet(root, path=paths, label=labels, split=splits, other=[0] * 5)
    else:
        sep = {"csv": ",", "tsv": "\t"}[form]
        rows = [
            sep.join(row)
            for row in [("other", "path", "label", "split"), *zip("abcde", paths, labels, splits, strict=True)]
        ]
        source = csv(root, "\ufeff" + "\r\n".join(rows), f"list.{form}")
    found = open_data(source)
    assert rows_of(found.train) == {("red/000.png", "warm"), ("blue/000.png", "cold"), ("red/002.png", "warm")}
    assert rows_of(found.validation) == {("red/001.png", "warm")}
    test = open_splits(source)["test"]
    assert rows_of(test) == {("blue/001.png", "cold")}
    assert open_labelled(source).samples == test.samples


def test_absolute_paths_within_the_folder_are_taken(root, monkeypatch):
    csv(root, f"path,label\n{root.resolve() / 'red' / '000.png'},warm\n..odd/../blue/000.png,cold\n")
    for source in (root / "list.csv", Path("list.csv"), Path("../colors/list.csv")):
        monkeypatch.chdir(root)
        images = open_data(source).train
        assert rows_of(images) == {("red/000.png", "warm"), ("blue/000.png", "cold")}
        assert all(path.is_file() for path, _ in images.samples)


def test_numbers_are_sorted_as_numbers(root):
    lines = [f"red/00{i}.png,{label}" for i, label in enumerate([10, 9, 100])]
    assert open_data(csv(root, "\n".join(["path,label", *lines]))).train.classes == ("9", "10", "100")
    assert open_data(parquet(root, path=["red/000.png", "red/001.png"], label=[10, 2])).train.classes == ("2", "10")


def test_several_labels_become_rows_of_zeros_and_ones(root):
    text = "path,labels\nred/000.png,warm; bright\nblue/000.png,cold\ngreen/000.png,\nred/001.png,warm;warm\n"
    images = open_data(csv(root, text)).train
    assert images.multi_label
    assert images.classes == ("bright", "cold", "warm")
    assert images.counts() == [1, 1, 2]
    crop = TrainCrop("center", Preprocess(input_size=(3, 8, 8), crop_pct=1.0))
    batch = next(Loader(images.samples, crop, batch_size=4, workers=0, num_classes=3).in_order())
    assert batch.targets.dtype == np.float32
    assert batch.targets.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0], [0, 0, 1]]
    lists = parquet(root, path=["red/000.png", "blue/000.png"], labels=[["warm", "bright"], []])
    assert [target for _, target in open_data(lists).train.samples] == [(0, 1), ()]


def test_several_labels_are_held_out_by_the_rarest(root):
    names = [f"{color}/{i:03d}.png" for color in ("red", "green", "blue") for i in range(4)]
    labels = ["common;rare" if i < 4 else "common" for i in range(12)]
    images = open_data(csv(root, "\n".join(["path,labels", *map(",".join, zip(names, labels, strict=True))]))).train
    train, held = hold_out(images, 0.25, seed=0)
    assert held.counts() == [3, 1]  # of 8 that are only common, and of the 4 rare ones
    assert sorted(map(str, train.samples + held.samples)) == sorted(map(str, images.samples))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column 'path'"),
        ("file,label\na.png,x", "no column 'path', only file, label"),
        ("path,class\nred/000.png,x", "needs one column 'label'"),
        ("path,label,labels\nred/000.png,x,y", "needs one column 'label'"),
        ("path,label\n", "lists no images"),
        ("path,label\nred/000.png,x\nred/../red/000.png,y", "listed twice"),
        ("path,label\nred/000.png,", "line 2: has no label"),
        ("path,label\n,x", "line 2: has no path"),
        ("path,label\n../elsewhere/a.png,x", "leads out of the list's folder"),
        ("path,label\n/etc/passwd,x", "leads out of the list's folder"),
        ("path,label\nrde/000.png,x", "does not exist"),
        ("path,label,split\nred/000.png,x,trian", "line 2: split 'trian' is not one of"),
        (
            "path,label,split\nred/000.png,x,train\nred/001.png,y,test",
            "'y' of the test split is not a class of",
        ),
        ("path,label,split\nred/000.png,x,test", "no train split, only test"),
        ("path,labels\nred/000.png,", "no image of the training split has a label"),
    ],
)
def test_refusals(root, text, message):
    with pytest.raises(DataError, match=message) as refused:
        open_splits(csv(root, text))
        open_data(csv(root, text))
    assert "\n" not in str(refused.value)


def test_other_files_are_refused(root):
    (root / "list.csv").write_bytes(b"path,label\n\xff\xfe,x")
    with pytest.raises(DataError, match="not UTF-8"):
        open_data(root / "list.csv")
    (root / "list.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(DataError, match="not a parquet file"):
        open_data(root / "list.parquet")
    with pytest.raises(DataError, match=r"for images within the table, give hf:"):
        open_data(parquet(root, image=[b"x"], label=["a"]))
    with pytest.raises(DataError, match="give a folder, a list"):
        open_data(root / "red" / "000.png")
