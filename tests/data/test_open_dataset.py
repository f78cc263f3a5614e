"""The same images in other forms give the same training, and the same evaluation."""

import shutil
import sys
from pathlib import Path

import pytest

from seresnet.cli import run
from seresnet.data.folder import image_folder
from seresnet.data.open_dataset import open_data, open_labelled, open_splits
from seresnet.data.pack import pack
from seresnet.errors import DataError
from seresnet.training.train import train
from seresnet.training.trainer import TrainingStopped
from tests.made_images import color_folder
from tests.training.test_trainer import assert_same_run, config, stop_after


@pytest.fixture(scope="module")
def colors(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("colors")
    for part, count in (("train", 16), ("validation", 4), ("test", 2)):
        color_folder(root / part, per_class=count)
    return root


@pytest.fixture(scope="module")
def trained(colors, tmp_path_factory) -> Path:
    """A run on the folder, which the other forms have to repeat."""
    out = tmp_path_factory.mktemp("runs") / "folder"
    train(config(epochs=2), colors, out)
    return out


def as_list(colors: Path, where: Path) -> Path:
    shutil.copytree(colors, where)
    rows = ["path,label,split"]
    for part, images in open_splits(colors).items():
        rows += [f"{path.relative_to(colors)},{images.classes[target]},{part}" for path, target in images.samples]
    (where / "list.csv").write_text("\n".join(rows))
    return where / "list.csv"


def as_archive(colors: Path, where: Path) -> Path:
    return Path(shutil.make_archive(str(where), "gztar", colors))


@pytest.mark.parametrize("form", [as_list, as_archive])
def test_training_on_another_form_is_the_same_training(colors, trained, tmp_path, monkeypatch, form):
    monkeypatch.setenv("SERESNET_CACHE", str(tmp_path / "cache"))
    train(config(epochs=2), form(colors, tmp_path / "data"), tmp_path / "run")
    assert_same_run(trained, tmp_path / "run")


def test_an_interrupted_run_on_shards_ends_like_an_uninterrupted_one(colors, tmp_path, monkeypatch):
    pack(colors, tmp_path / "shards", shard_size=7)
    settings = config(epochs=2, workers=2)
    train(settings, tmp_path / "shards", tmp_path / "whole")
    stop_after(monkeypatch, 8)  # of 12: in the middle of the second epoch
    with pytest.raises(TrainingStopped):
        train(settings, tmp_path / "shards", tmp_path / "parts")
    monkeypatch.undo()
    train(settings.updated({"workers": 0}), tmp_path / "shards", tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_an_interrupted_run_on_a_stream_ends_like_an_uninterrupted_one(colors, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    splits = []
    for part, images in open_splits(colors).items():
        cells = [{"bytes": path.read_bytes(), "path": f"{part}/{i}"} for i, (path, _) in enumerate(images.samples)]
        columns = {"image": cells, "label": [target for _, target in images.samples]}
        kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(images.classes))}
        table = datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))
        (tmp_path / "hub").mkdir(exist_ok=True)
        table.to_parquet(tmp_path / "hub" / f"{part}.parquet")
        splits.append(f"  - {{name: {part}, num_bytes: 1, num_examples: {len(cells)}}}")
    names = "".join(f"\n          '{i}': {name}" for i, name in enumerate(open_data(colors).train.classes))
    (tmp_path / "hub" / "README.md").write_text(
        "---\ndataset_info:\n  features:\n  - name: image\n    dtype: image\n  - name: label\n    dtype:\n"
        f"      class_label:\n        names:{names}\n  splits:\n" + "\n".join(splits) + "\n---\n"
    )
    source, settings = f"hf:{tmp_path / 'hub'},stream", config(epochs=2, workers=2)
    train(settings, source, tmp_path / "whole")
    stop_after(monkeypatch, 8)
    with pytest.raises(TrainingStopped):
        train(settings, source, tmp_path / "parts")
    monkeypatch.undo()
    train(settings, source, tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_evaluation_and_its_report_take_shards(colors, trained, tmp_path, capsys):
    pack(colors, tmp_path / "shards", shard_size=4)
    shown = []
    for name, data in (("folder", colors), ("shards", tmp_path / "shards")):
        arguments = ["--model", str(trained / "last"), "--report", str(tmp_path / f"{name}-report"), "--device", "cpu"]
        assert run(["eval", str(data), *arguments]) == 0
        shown.append(
            [line for line in capsys.readouterr().out.splitlines() if line.startswith(("top-1", "macro", "exp"))]
        )
    assert shown[0] == shown[1] and len(shown[0]) == 5
    rows = (tmp_path / "shards-report" / "predictions.csv").read_text().splitlines()
    assert len(rows) == 7 and rows[1].startswith(str(tmp_path / "shards" / "test-000000.tar"))


def test_what_is_no_data_is_refused_in_one_line(tmp_path):
    for name in ("missing", "missing.csv", "missing.zip", "shards/train-{000..001}.tar"):
        with pytest.raises(DataError, match="no such") as refused:
            open_data(tmp_path / name)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("missing", "name"), [("datasets", "hf:user/name"), ("pyarrow", "list.parquet")])
def test_what_to_install_is_said(tmp_path, monkeypatch, capsys, missing, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, missing, None)
    assert run(["pack", name, "--out", "shards"]) == 2
    assert f'{missing} is not installed: run pip install "seresnet[hub-data]"' in capsys.readouterr().err


def test_a_folder_with_a_tar_beside_its_classes_is_a_folder(tmp_path):
    color_folder(tmp_path, per_class=1)
    shutil.make_archive(str(tmp_path / "backup"), "tar", tmp_path, "red")
    assert open_data(tmp_path).train == image_folder(tmp_path)


def test_a_report_shows_images_that_are_no_files(colors, tmp_path):
    from seresnet.evaluation.plots import _thumbnail
    from seresnet.evaluation.result import SingleLabelResult

    pack(colors, tmp_path / "shards")
    image, target = open_labelled(tmp_path / "shards").samples[0]
    assert _thumbnail(SingleLabelResult(str(image), target, 0, 0.5, image=image)).shape == (16, 16, 3)
    assert _thumbnail(SingleLabelResult(str(image), target, 0, 0.5)) is None
