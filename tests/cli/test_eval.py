"""``seresnet eval`` as its users run it: exit codes, what is on stdout, and the report."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seresnet.evaluation.evaluate import evaluate
from seresnet.evaluation.result import Published
from seresnet.inference.classifier import load
from seresnet.weights.create import create_model
from seresnet.weights.save import save
from tests.cli.terminal import here, seresnet
from tests.networks import seresnet20


def picture(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((40, 36))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save(seresnet20(), tmp_path_factory.mktemp("model"))


@pytest.fixture
def data(tmp_path) -> Path:
    for kind in range(10):
        folder = tmp_path / "data" / f"kind {kind}"
        folder.mkdir(parents=True)
        for i in range(2):
            picture(10 * kind + i).save(folder / f"{i}.png")
    return tmp_path / "data"


def test_figures_are_those_of_the_library(model, data):
    expected = evaluate(create_model(str(model), pretrained=True), data)
    done = here("eval", data, "--model", model, "--format", "json")
    assert (done.returncode, done.stdout.count(b"\n")) == (0, 1)
    figures = json.loads(done.stdout)
    assert figures == expected.summary() | {"model": str(model)}
    assert figures["images"] == 20 and figures["negative_log_likelihood"] > 0

    table = here("eval", data, "--model", model).stdout.decode("ascii", "replace")
    assert re.search(rf"top-1 accuracy +{100 * expected.metrics.top1:.2f} %", table)
    assert re.search(rf"top-5 accuracy +{100 * expected.metrics.top5:.2f} %", table)
    assert re.search(rf"expected calibration error +{100 * expected.metrics.ece:.2f} %", table)
    assert re.search(rf"macro F1 +{100 * expected.metrics.macro_f1:.2f} %", table)
    assert "published" not in table


def test_a_report_is_written_and_not_overwritten(model, data, tmp_path):
    report = tmp_path / "report"
    done = here("eval", data, "--model", model, "--report", report)
    assert done.returncode == 0
    assert f"report in {report}" in done.stderr.decode()
    names = {p.name for p in report.iterdir()}
    assert {"metrics.json", "per_class.csv", "confusion.png", "predictions.csv", "mistakes.png", "report.html"} <= names
    assert 'alt="heat map of' in (report / "report.html").read_text()

    again = here("eval", data, "--model", "no such model", "--report", report)  # refused before anything is loaded
    assert again.returncode == 2
    assert again.stderr.decode().startswith(f"seresnet: error: {report} is not empty")
    assert again.stderr.count(b"\n") == 1 and again.stdout == b""

    (report / "metrics.json").unlink()
    assert here("eval", data, "--model", model, "--report", report, "--exist-ok").returncode == 0
    assert (report / "metrics.json").exists()


def test_two_models_are_compared_on_the_same_images(model, data, tmp_path):
    done = here("eval", data, "--model", model, "--compare", model, "--report", tmp_path / "r", "--format", "json")
    assert done.returncode == 0
    comparison = json.loads(done.stdout)["comparison"]
    assert (comparison["images"], comparison["difference"], comparison["mcnemar_p_value"]) == (20, 0, 1)
    assert json.loads((tmp_path / "r" / "comparison.json").read_text()) == comparison
    shown = here("eval", data, "--model", model, "--compare", model).stdout.decode("ascii", "replace")
    assert re.search(r"difference +\+0\.00 points \(95 %: \+0\.00 to \+0\.00\)\n", shown)


def test_unreadable_images_are_named_and_the_exit_code_is_one(model, data):
    (data / "kind 3" / "1.png").write_bytes(b"not an image")
    done = here("eval", data, "--model", model, "--format", "json")
    assert done.returncode == 1
    figures = json.loads(done.stdout)
    assert (figures["images"], figures["unreadable"]) == (19, 1)
    assert figures["unreadable_images"][0]["path"] == str(data / "kind 3" / "1.png")
    assert str(data / "kind 3" / "1.png") in done.stderr.decode()
    assert re.search(r"could not be read +1\n", here("eval", data, "--model", model).stdout.decode("ascii", "replace"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: data / "nowhere", "no such folder"),
        (
            lambda data: (data / "kind 4").rename(data / "sort 4").parent,
            "does not know: sort 4; its 10 classes are kind 0",
        ),
        (lambda data: data / "kind 1", "no class folders"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(model, data, spoil, message):
    done = here("eval", spoil(data), "--model", model)
    assert (done.returncode, done.stdout) == (2, b"")
    *_, last = done.stderr.decode().splitlines()
    assert last.startswith("seresnet: error: ") and message in last


def test_a_quantized_model_is_measured_in_int8_and_others_in_float32(model, data, tmp_path):
    assert b"float32\n" in here("eval", data, "--model", model, "--device", "cpu").stderr
    done = here(
        "eval", data, "--model", model, "--device=cpu", "--precision=int8", "--calibration", data, "--format=json"
    )
    assert done.returncode == 0 and b"int8" in done.stderr.splitlines()[0]
    quantized = tmp_path / "int8"
    quantized.mkdir()
    load(model, device="cpu", precision="int8", calibration=data).engine.save(quantized / "openvino_model.xml")
    config = json.loads((model / "config.json").read_text())
    (quantized / "config.json").write_text(json.dumps({**config, "quantization": {"weight_bits": 8}}))
    again = here("eval", data, "--model", quantized, "--format=json")
    assert again.returncode == 0 and b"int8" in again.stderr.splitlines()[0]
    assert json.loads(again.stdout) == json.loads(done.stdout) | {"model": str(quantized)}
    assert evaluate(quantized, data).metrics.top1 == json.loads(done.stdout)["top1"]
    refused = here("eval", data, "--model", quantized, "--precision", "float32")
    assert refused.returncode == 2 and b"was quantized to int8" in refused.stderr


def test_published_accuracy_stands_beside_the_measured_one(model, data, monkeypatch):
    monkeypatch.setattr(
        "seresnet.evaluation.evaluate.published", lambda name, classes: Published(0.7765, 0.93732, "ImageNet-1k")
    )
    lines = here("eval", data, "--model", model).stdout.decode("ascii", "replace").splitlines()
    assert re.search(r"measured +published \(ImageNet-1k\)", lines[1])
    assert re.search(r"top-1 accuracy +\d+\.\d\d % +77\.65 %", lines[2])
    assert re.search(r"top-5 accuracy +\d+\.\d\d % +93\.73 %", lines[3])


@pytest.fixture
def labels_list(data) -> Path:
    """A list of the same images, each with its kind and the next one as labels; none has the last kind alone."""
    rows = [f"kind {k}/{i}.png,kind {k};kind {min(k + 1, 8)}" for k in range(9) for i in range(2)]
    (data / "list.csv").write_text("\n".join(["path,labels", *rows]))
    return data / "list.csv"


@pytest.fixture(scope="module")
def labels_model(tmp_path_factory) -> Path:
    network = seresnet20()
    network.multi_label = True
    return save(network, tmp_path_factory.mktemp("labels_model"))


def test_several_labels_an_image(labels_model, labels_list, tmp_path):
    (labels_list.parent / "kind 3" / "1.png").write_bytes(b"not an image")
    done = here("eval", labels_list, "--model", labels_model, "--format", "json")
    assert done.returncode == 1
    figures = json.loads(done.stdout, parse_constant=pytest.fail)  # NaN is no JSON
    expected = evaluate(labels_model, labels_list)
    assert figures == expected.summary()
    assert (figures["images"], figures["unreadable"], figures["classes_with_images"]) == (17, 1, 9)

    shown = here("eval", labels_list, "--model", labels_model, "--report", tmp_path / "report")
    table = shown.stdout.decode()
    for name, share in (
        ("mean average precision", expected.metrics.mean_average_precision),
        ("micro F1", expected.metrics.micro_f1),
        ("macro F1", expected.metrics.macro_f1),
        ("exact match", expected.metrics.exact_match),
    ):
        assert re.search(rf"^{name} +{100 * share:.2f} %$", table, re.M), name
    assert "macro averages are over these; no images of kind 9" in table
    assert re.search(r"^lowest average precision +AP +precision +recall +F1 +images$", table, re.M)
    which, count, total = expected.metrics.most_frequent_confusions(expected.labels, 1)[0]
    assert re.search(rf"^{which} +{count} of {total}$", table, re.M)
    assert {p.name for p in (tmp_path / "report").iterdir()} == {
        *("metrics.json", "per_class.csv", "predictions.csv", "per_class.png", "mistakes.png", "report.html")
    }


def test_a_model_and_data_of_different_kinds_are_one_line(model, labels_model, data, labels_list):
    for subject, chosen, message in (
        (labels_list, model, "has several labels, and"),
        (data, labels_model, "has one label, and"),
    ):
        done = here("eval", subject, "--model", chosen)
        assert (done.returncode, done.stdout) == (2, b"")
        *_, last = done.stderr.decode().splitlines()
        assert last.startswith("seresnet: error: ") and message in last and ": give a" in last


def test_a_trained_model_of_several_labels_has_the_figures_of_its_training(labels_list, tmp_path):
    path = labels_list.with_name("split.csv")
    head, *rows = labels_list.read_text().splitlines()
    path.write_text("\n".join([f"{head},split", *(f"{r},{('train', 'val')[i % 2]}" for i, r in enumerate(rows))]))
    settings = ("--recipe", "debug", "--batch-size", "4", "--precision", "float32", "--device", "cpu")
    assert here("train", path, *settings, "--out", tmp_path / "run").returncode == 0
    *_, last = csv.DictReader((tmp_path / "run" / "metrics.csv").open())
    done = here("eval", path, "--model", tmp_path / "run" / "last", "--format", "json", "--device", "cpu")
    figures = json.loads(done.stdout)
    assert (figures["images"], figures["classes"]) == (9, 9)
    assert figures["mean_average_precision"] == pytest.approx(float(last["val_map"]), rel=1e-3)
    assert 9 * figures["negative_log_likelihood"] == pytest.approx(float(last["val_loss"]), rel=1e-3)  # 9 labels


def test_the_process_prints_results_on_stdout_alone(model, data):
    done = seresnet(
        "eval", data, "--model", model, "--format", "json", "--batch-size", "7", "--workers", "0", "--offline"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == 20
    assert b"20 images" in done.stderr and b"Traceback" not in done.stderr
