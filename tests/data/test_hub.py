"""Data sets of the library `datasets`, made on disk: whole and streamed, with the network out of reach."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from seresnet.data.augment import TrainCrop
from seresnet.data.dataset import hold_out
from seresnet.data.hub import HubSource, parse
from seresnet.data.loader import Loader
from seresnet.data.open_dataset import open_data, open_labelled, open_splits
from seresnet.data.preprocess import Preprocess
from seresnet.errors import DataError
from tests.made_images import COLORS, color_folder

datasets = pytest.importorskip("datasets")
CROP = TrainCrop("resized", Preprocess(input_size=(3, 12, 12), crop_pct=1.0), scale=(0.3, 1.0))
CARD = """---
dataset_info:
  features:
  - name: image
    dtype: image
  - name: label
    dtype:
      class_label:
        names:
          '0': blue
          '1': green
          '2': red
  splits:
  - {{name: train, num_bytes: 1, num_examples: {train}}}
  - {{name: validation, num_bytes: 1, num_examples: {validation}}}
configs:
- config_name: default
  data_files:
  - {{split: train, path: train-*}}
  - {{split: validation, path: validation-*}}
---
"""


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_HUB_OFFLINE", True)
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        patch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)  # after each shuffled pass
        patch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def table(root: Path, start: int, stop: int, label=None, **columns):
    """Return a table of made images with their bytes, the classes in turn."""
    names = sorted(COLORS)
    cells = [
        {"bytes": (root / names[i % 3] / f"{i // 3:03d}.png").read_bytes(), "path": f"{i}.png"}
        for i in range(start, stop)
    ]
    label = label or datasets.ClassLabel(names=names)
    kinds = {"image": datasets.Image(), "label": label} | {key: datasets.Value("string") for key in columns}
    values = {"image": cells, "label": [i % 3 for i in range(start, stop)]}
    return datasets.Dataset.from_dict(values | columns, features=datasets.Features(kinds))


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return color_folder(tmp_path_factory.mktemp("images") / "colors", per_class=16)


@pytest.fixture(scope="module")
def hub(images, tmp_path_factory) -> Path:
    """A folder as the Hub has them: parquet files, and a card that declares what is in them."""
    root = tmp_path_factory.mktemp("hub") / "colors"
    root.mkdir()
    for number in range(3):
        table(images, 10 * number, 10 * number + 10).to_parquet(root / f"train-{number:05d}-of-00003.parquet")
    table(images, 30, 42).to_parquet(root / "validation-00000-of-00001.parquet")
    (root / "README.md").write_text(CARD.format(train=30, validation=12))
    return root


def order(batches) -> list[str]:
    return [str(image) for batch in batches for image in batch.paths]


def test_what_a_name_says():
    assert parse("hf:cifar10") == HubSource("cifar10")
    assert parse("hf:user/name:config,label=fine,stream") == HubSource("user/name", "config", label="fine", stream=True)
    for wrong in ("hf:", "hf:name,", "hf:name,split=train", "hf:name,stream=1"):
        with pytest.raises(DataError, match=r"is not one of image=|give a name after"):
            parse(wrong)


def test_a_data_set_of_the_hub(hub, images):
    splits = open_data(f"hf:{hub}")
    assert splits.train.classes == ("blue", "green", "red")
    assert splits.train.counts() == [10, 10, 10]
    assert splits.validation.counts() == [4, 4, 4]
    image, target = splits.train.samples[4]
    assert image.read() == (images / "green" / "001.png").read_bytes() and target == 1
    assert len(open_labelled(f"hf:{hub}").samples) == 12
    whole, rest = (Loader(splits.train.samples, CROP, 4, workers) for workers in (0, 2))
    for one, again in zip(list(whole.epoch(1))[2:], rest.epoch(1, skip=2), strict=True):
        assert np.array_equal(one.pixels, again.pixels)


def test_what_was_saved_to_disk(images, tmp_path):
    table(images, 0, 9).save_to_disk(tmp_path / "alone")
    assert open_data(f"hf:{tmp_path / 'alone'}").train.counts() == [3, 3, 3]
    parts = {"train": table(images, 0, 9), "test": table(images, 9, 15)}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "parts")
    splits = open_data(f"hf:{tmp_path / 'parts'}")
    assert splits.validation is None
    assert open_labelled(f"hf:{tmp_path / 'parts'}").counts() == [2, 2, 2]
    train, held = hold_out(splits.train, 0.3, seed=1)
    assert train.counts() == [2, 2, 2] and held.counts() == [1, 1, 1]


def test_a_folder_of_image_files_and_a_parquet_file(images, hub):
    splits = open_data(f"hf:{images}")
    assert splits.train.classes == ("blue", "green", "red")
    assert sorted(i.read() for i, _ in splits.train.samples) == sorted(p.read_bytes() for p in images.rglob("*.png"))
    assert open_data(f"hf:{hub / 'validation-00000-of-00001.parquet'}").train.counts() == [4, 4, 4]


def test_labels_of_other_kinds(images, tmp_path):
    numbers = table(images, 0, 6, datasets.Value("int64"), other=["x", "y"] * 3)
    with pytest.raises(DataError, match="'other2' is not a column of labels"):
        numbers.save_to_disk(tmp_path / "numbers")
        open_data(f"hf:{tmp_path / 'numbers'},label=other2")
    assert open_data(f"hf:{tmp_path / 'numbers'}").train.classes == ("0", "1", "2")
    assert open_data(f"hf:{tmp_path / 'numbers'},label=other").train.classes == ("x", "y")
    several = numbers.remove_columns("label").add_column("label", [[0, 2], [], [1], [2], [0], [1]])
    several.save_to_disk(tmp_path / "several")
    found = open_data(f"hf:{tmp_path / 'several'},label=label").train
    assert found.multi_label and found.classes == ("0", "1", "2")
    assert [target for _, target in found.samples][:3] == [(0, 2), (), (1,)]


def test_a_split_with_hidden_labels_is_left_out_and_named(images, tmp_path, caplog):
    hidden = table(images, 9, 12).remove_columns("label").add_column("label", [-1] * 3)
    parts = {"train": table(images, 0, 9), "test": hidden.cast(table(images, 0, 3).features)}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "parts")
    assert set(open_splits(f"hf:{tmp_path / 'parts'}")) == {"train"}
    assert "the test split is left out: its labels are hidden (all are -1)" in caplog.text
    assert open_labelled(f"hf:{tmp_path / 'parts'}").split == "train"


@pytest.mark.parametrize("label", [-1, None])
def test_a_streamed_split_with_hidden_labels_is_left_out_and_named(hub, images, tmp_path, caplog, label):
    shutil.copytree(hub, tmp_path / "hub")
    features = table(images, 0, 3).features
    hidden = table(images, 42, 45).remove_columns("label").add_column("label", [label] * 3).cast(features)
    hidden.to_parquet(tmp_path / "hub" / "test-00000-of-00001.parquet")
    card = (hub / "README.md").read_text()
    card = card.replace("configs:", "  - {name: test, num_bytes: 1, num_examples: 3}\nconfigs:")
    card = card.rstrip("-\n") + "\n  - {split: test, path: test-*}\n---\n"
    (tmp_path / "hub" / "README.md").write_text(card)
    for source in (f"hf:{tmp_path / 'hub'},stream", f"hf:{tmp_path / 'hub'}"):
        caplog.clear()
        assert open_labelled(source).split == "validation"
        assert "the test split is left out: its labels are hidden" in caplog.text
        assert len(open_data(source).train.samples) == 30
        with pytest.raises(DataError, match="no test split that can be used: its labels are hidden"):
            open_labelled(source, split="test")


def test_a_negative_label_in_a_stream_is_refused(hub, images, tmp_path):
    shutil.copytree(hub, tmp_path / "hub")
    mixed = table(images, 0, 10).remove_columns("label").add_column("label", [0, 1, 2, 0, -1, 1, 2, 0, 1, 2])
    mixed.cast(table(images, 0, 3).features).to_parquet(tmp_path / "hub" / "train-00000-of-00003.parquet")
    for source in (f"hf:{tmp_path / 'hub'},stream", f"hf:{tmp_path / 'hub'}"):
        with pytest.raises(DataError, match="has the label -1"):
            list(open_data(source).train.samples)


def test_a_stream_has_the_rows_of_the_table(hub):
    stream, table = open_data(f"hf:{hub},stream"), open_data(f"hf:{hub}")
    assert len(stream.train.samples) == 30 and stream.train.classes == table.train.classes
    for (image, target), (expected, index) in zip(stream.train.samples, table.train.samples, strict=True):
        assert image.read() == expected.read() and target == index
    assert len(open_labelled(f"hf:{hub},stream").samples) == 12


def test_a_stream_is_shuffled_by_seed_and_epoch_and_goes_on_where_it_stopped(hub):
    samples = open_data(f"hf:{hub},stream").train.samples
    whole = list(Loader(samples, CROP, 4, 0, seed=5).epoch(2))
    again = open_data(f"hf:{hub},stream").train.samples  # of another session
    rest = list(Loader(again, CROP, 4, 2, seed=5).epoch(2, skip=3))
    assert [len(batch.targets) for batch in whole] == [4] * 7
    assert len(set(order(whole))) == 28
    assert order(rest) == order(whole[3:])
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(rest, whole[3:], strict=True))
    assert order(Loader(samples, CROP, 4, 0, seed=5).epoch(3)) != order(whole)
    assert order(Loader(samples, CROP, 4, 0, seed=6).epoch(2)) != order(whole)


def test_processes_share_a_stream(hub):
    samples = open_data(f"hf:{hub},stream").train.samples
    alone = list(Loader(samples, CROP, 8, 0).epoch(1))
    shares = [list(Loader(samples, CROP, 4, 0, rank=rank, world=2).epoch(1)) for rank in (0, 1)]
    for batch, *parts in zip(alone, *shares, strict=True):
        assert sorted(order([batch])) == sorted(order(parts))
    counted = [order(Loader(samples, CROP, 4, 0, rank=rank, world=2).in_order()) for rank in (0, 1)]
    assert len(counted[0]) == len(counted[1]) == 15 and len({*counted[0], *counted[1]}) == 30


def test_what_a_stream_cannot_do_is_said(hub, images, tmp_path):
    stream = open_data(f"hf:{hub},stream").train
    with pytest.raises(DataError, match="needs a validation split"):
        hold_out(stream, 0.1, 0)
    with pytest.raises(DataError, match="cannot be counted by class"):
        stream.counts()
    with pytest.raises(DataError, match="how many rows train has"):
        open_data(f"hf:{hub / 'train-00000-of-00003.parquet'},stream")  # without the card
    table(images, 0, 6, datasets.Value("int64")).to_parquet(tmp_path / "plain.parquet")
    with pytest.raises(DataError, match="does not declare its classes"):
        open_data(f"hf:{tmp_path / 'plain.parquet'},stream")


def test_refusals(images, tmp_path):
    with pytest.raises(DataError, match="hf:no/such") as refused:
        open_data("hf:no/such")
    assert "\n" not in str(refused.value)
    datasets.Dataset.from_dict({"label": [0, 1]}).save_to_disk(tmp_path / "no_image")
    with pytest.raises(DataError, match="add ,image=COLUMN, one of its columns label"):
        open_data(f"hf:{tmp_path / 'no_image'}")
    two = table(images, 0, 3).rename_column("label", "fine")
    two = two.add_column("coarse", [0, 0, 1]).cast_column("coarse", datasets.ClassLabel(names=["a", "b"]))
    two.save_to_disk(tmp_path / "two")
    with pytest.raises(DataError, match="add ,label=COLUMN, one of its columns fine, coarse"):
        open_data(f"hf:{tmp_path / 'two'}")
    assert open_data(f"hf:{tmp_path / 'two'},label=coarse").train.classes == ("a", "b")
    parts = {
        "train": table(images, 0, 3, datasets.Value("int64")),
        "test": table(images, 3, 6, datasets.Value("int64")),
    }
    parts["test"] = parts["test"].map(lambda row: {"label": row["label"] + 7})
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "unknown")
    with pytest.raises(DataError, match="row 0 of test has the label 7, which is not a class of the training rows"):
        open_splits(f"hf:{tmp_path / 'unknown'}")
    datasets.DatasetDict(a=table(images, 0, 3), b=table(images, 0, 3)).save_to_disk(tmp_path / "ab")
    with pytest.raises(DataError, match="has the splits a, b, none of them train"):
        open_data(f"hf:{tmp_path / 'ab'}")
