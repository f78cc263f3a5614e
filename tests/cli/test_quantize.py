"""``seresnet quantize`` as a user meets it: what is written, what is refused, what is said."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import seresnet
from seresnet.cli import run
from seresnet.quantization.quantize import quantize
from seresnet.quantization.report import QuantizationReport
from seresnet.weights.create import create_model
from tests.networks import seresnet20
from tests.photographs import pieces


@pytest.fixture(scope="module", autouse=True)
def quick():
    """One short round of timing, on one core: the figures are not looked at."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seresnet.quantization.quantize.ROUNDS", 1)
        patch.setattr("seresnet.quantization.quantize.SLOT_SECONDS", 0.0)
        patch.setattr("seresnet.quantization.quantize.BATCH_SIZES", (1,))
        if cores:
            os.sched_setaffinity(0, {min(cores)})
        yield
    if cores:
        os.sched_setaffinity(0, cores)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> Path:
    """A folder of photographs in the classes that the bundled model finds: its accuracy on them is 1."""
    root = tmp_path_factory.mktemp("data") / "labelled"
    images = list(pieces(grid=4))
    model = create_model("seresnet20.cifar10", pretrained=True).eval()
    for i, prediction in enumerate(seresnet.load(model, precision="float32").predict(images, topk=1)):
        if prediction.probabilities[0] > 0.65:  # on others the least difference decides
            folder = root / prediction.labels[0]
            folder.mkdir(parents=True, exist_ok=True)
            images[i].save(folder / f"{i:03d}.png")
    return root


@pytest.fixture(scope="module")
def dark(tmp_path_factory, labelled) -> Path:
    """A data set whose training part is black: no range that it gives holds for its test part."""
    root = tmp_path_factory.mktemp("data") / "dark"
    shutil.copytree(labelled, root / "test")
    for path in labelled.rglob("*.png"):
        black = root / "train" / path.relative_to(labelled)
        black.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32)).save(black)
    return root


@pytest.fixture(scope="module")
def inaccurate(tmp_path_factory, dark) -> tuple[Path, QuantizationReport]:
    """A folder that is written though its model is far from float32, as no bound is set, and the report on it."""
    out = tmp_path_factory.mktemp("inaccurate") / "int8"
    return out, quantize("seresnet20.cifar10", dark, out, min_accuracy=0)


@pytest.fixture(scope="module")
def written(tmp_path_factory, labelled) -> tuple[Path, str, str]:
    """The folder that the command writes, and what it says on stdout and stderr."""
    out = tmp_path_factory.mktemp("quantized") / "new" / "int8"
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        assert run(["quantize", "--data", str(labelled), "--out", str(out)]) == 0
    return out, stdout.getvalue(), stderr.getvalue()


def plain_folder(root: Path, labelled: Path, count: int) -> Path:
    """Copy images into one folder, without classes."""
    root.mkdir()
    for path in sorted(labelled.rglob("*.png"))[:count]:
        shutil.copy(path, root / path.name)
    return root


def left_in(folder: Path) -> list[str]:
    """Return what is in a folder, hidden files among it."""
    return sorted(path.name for path in folder.iterdir())


def test_a_labelled_folder_gives_a_model_and_a_report(written, labelled):
    out, stdout, stderr = written
    assert left_in(out) == ["config.json", "openvino_model.bin", "openvino_model.xml", "quantization.json"]
    assert left_in(out.parent) == ["int8"]
    report = json.loads((out / "quantization.json").read_text())
    count = len(list(labelled.rglob("*.png")))
    assert (report["calibrated_on"], report["compared_on"]) == (count // 2, count - count // 2)
    assert report["float32_top1"] == 1  # by the way the classes were made
    assert report["int8_top1"] == report["agreement"] >= 0.99
    assert 0 < report["logit_error"] < 0.05
    assert report["int8_bytes"] == sum((out / f"openvino_model.{kind}").stat().st_size for kind in ("xml", "bin"))
    assert set(report["layer_dtypes"].values()) <= {"u8", "i8"}
    stages = [f"calibrating: {count // 2} of {count // 2}", f"comparing: {count - count // 2} of {count - count // 2}"]
    for piece in ("bundled seresnet20.cifar10", *stages, f"written to {out}"):
        assert piece in stderr
    for piece in ("top-1 accuracy", "100.00 %", "top-1 agreement", "22 of 22 layers compute in int8"):
        assert piece in stdout


def test_what_is_written_is_a_model_for_every_verb(written, labelled, tmp_path, capsys):
    out = written[0]
    clf, original = seresnet.load(out), seresnet.load("seresnet20.cifar10", precision="float32")
    assert clf.engine.precision == "int8"
    assert (clf.labels, clf.preprocess) == (original.labels, original.preprocess)
    assert run(["eval", str(labelled), "--model", str(out), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["top1"] >= 0.98
    assert run(["quantize", "--model", str(out), "--data", str(labelled), "--out", str(tmp_path / "again")]) == 2
    assert "give the weights it was made of" in capsys.readouterr().err


def test_images_without_classes_are_judged_by_agreement_and_unreadable_ones_named(labelled, tmp_path, capsys):
    folder = plain_folder(tmp_path / "plain", labelled, 40)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    assert run(["quantize", "--data", str(folder), "--out", str(tmp_path / "int8"), "--images", "10"]) == 1
    said = capsys.readouterr()
    report = json.loads((tmp_path / "int8" / "quantization.json").read_text())
    assert report["calibrated_on"] + report["compared_on"] == 40
    assert report["int8_top1"] is None
    assert [entry["path"] for entry in report["unreadable"]] == [str(folder / "broken.png")]
    assert f"cannot read {folder / 'broken.png'}" in said.err
    assert "accuracy" not in said.out


@pytest.mark.parametrize("known", [True, False], ids=["classes", "no classes"])
def test_a_bad_result_is_shown_and_not_written(known, dark, labelled, tmp_path, capsys):
    data = dark
    if not known:
        data = shutil.copytree(dark, tmp_path / "data")
        for folder in list(data.glob("*/*")):
            folder.rename(folder.parent / f"all of {folder.name}")
    (tmp_path / "place").mkdir()
    assert run(["quantize", "--data", str(data), "--out", str(tmp_path / "place" / "int8")]) == 2
    said = capsys.readouterr()
    assert left_in(tmp_path / "place") == []
    assert "top-1 agreement" in said.out
    reason = "top-1 accuracy, less than 99.00 %" if known else "of the images, less than 95.00 %"
    assert reason in said.err
    assert said.err.strip().splitlines()[-1].startswith("seresnet: error: int8 ")
    assert "nothing was written" in said.err


def test_a_bad_result_is_written_where_the_bound_allows_it(inaccurate):
    out, report = inaccurate
    assert report.int8_top1 is not None
    assert report.int8_top1 < 0.9
    assert (out / "openvino_model.bin").exists()


def test_the_bound_is_a_share_of_float32_or_of_the_same_answers(inaccurate):
    labelled = replace(inaccurate[1], float32_top1=0.8, int8_top1=0.7921, agreement=0.5)
    assert labelled.shortcoming(None) is None
    assert "79.21 % of 80.00 %" in str(labelled.shortcoming(0.991))
    assert replace(labelled, int8_top1=0.7919).shortcoming(None) is not None
    without = replace(labelled, float32_top1=None, int8_top1=None)
    assert "50.00 % of the images, less than 95.00 %" in str(without.shortcoming(None))
    assert without.shortcoming(0.5) is None
    assert replace(without, agreement=0.95).shortcoming(None) is None


def test_too_few_images_are_refused(labelled, tmp_path, capsys):
    folder = plain_folder(tmp_path / "plain", labelled, 9)
    arguments = ["quantize", "--data", str(folder), "--out", str(tmp_path / "int8")]
    assert run(arguments) == 2
    assert "holds 9 images, quantization takes 10 or more" in capsys.readouterr().err
    for i in range(8):
        (folder / f"broken{i}.png").write_bytes(b"nothing")
    assert run(arguments) == 2
    assert "cannot be read, among them" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert run(["quantize", "--data", str(tmp_path / "empty"), "--out", str(tmp_path / "int8")]) == 2
    assert "no images" in capsys.readouterr().err
    assert not (tmp_path / "int8").exists()


def test_classes_that_fit_in_part_are_refused(labelled, tmp_path, capsys):
    data = shutil.copytree(labelled, tmp_path / "data")
    sorted(data.iterdir())[0].rename(data / "spoon")
    assert run(["quantize", "--data", str(data), "--out", str(tmp_path / "int8")]) == 2
    assert "spoon" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--images", "2"], "images must be 5 or more"),
        (["--min-accuracy", "99"], "between 0 and 1"),
        (["--model", "no_such_model"], "no_such_model"),
    ],
)
def test_settings_are_checked_before_any_work(arguments, reason, labelled, tmp_path, capsys):
    assert run(["quantize", "--data", str(labelled), "--out", str(tmp_path / "int8"), *arguments]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "int8").exists()


def test_an_existing_folder_is_replaced_by_permission_and_only_if_it_holds_nothing_else(
    written, labelled, tmp_path, capsys
):
    out = shutil.copytree(written[0], tmp_path / "int8")
    arguments = ["quantize", "--data", str(labelled), "--out", str(out)]
    assert run(arguments) == 2
    assert "--exist-ok" in capsys.readouterr().err
    (out / "openvino_model.xml").write_text("damaged")
    assert run([*arguments, "--exist-ok"]) == 0
    assert (out / "openvino_model.xml").read_bytes() == (written[0] / "openvino_model.xml").read_bytes()
    assert left_in(tmp_path) == ["int8"]
    (out / "notes.txt").write_text("mine")
    assert run([*arguments, "--exist-ok"]) == 2
    assert "notes.txt" in capsys.readouterr().err
    assert (out / "notes.txt").read_text() == "mine"
    assert run([*arguments[:-1], str(out / "notes.txt")]) == 2
    assert "is a file" in capsys.readouterr().err


def test_a_failure_while_writing_leaves_what_was_there(written, labelled, tmp_path, monkeypatch):
    out = shutil.copytree(written[0], tmp_path / "int8")
    files = {path.name: path.read_bytes() for path in out.iterdir()}
    told: dict[str, list[tuple[int, int]]] = {}

    def full_disk(path: Path, text: str) -> None:
        raise OSError("the disk is full")

    def tell(stage: str, done: int, total: int) -> None:
        told.setdefault(stage, []).append((done, total))

    monkeypatch.setattr("seresnet.quantization.quantize.write_text", full_disk)
    with pytest.raises(OSError, match="disk"):
        quantize("seresnet20.cifar10", labelled, out, exist_ok=True, progress=tell)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == files
    assert left_in(tmp_path) == ["int8"]
    assert list(told) == ["calibrating", "comparing", "timing"]  # each counted to its end
    assert all(steps == sorted(steps) and steps[-1][0] == steps[-1][1] for steps in told.values())


def test_a_network_can_be_handed_over(labelled, tmp_path):
    network = seresnet20()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    report = quantize(network, labelled, tmp_path / "int8", min_accuracy=0)
    assert report.float32_top1 is None  # "kind 0", ... are no folders' names
    assert "are no classes of the model" in report.notes[0]
    assert all(before[key].equal(value) for key, value in network.state_dict().items())
    clf = seresnet.load(tmp_path / "int8")
    assert clf.labels == network.labels
    images = np.random.default_rng(0).normal(size=(4, 3, 32, 32)).astype(np.float32)
    found, wanted = clf.logits(images), seresnet.load(network, precision="float32").logits(images)
    assert np.linalg.norm(found - wanted) < 0.1 * np.linalg.norm(wanted)
