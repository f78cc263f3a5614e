"""From a name to an engine: what the cache saves, and what it never changes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage
import torch

import seresnet
from seresnet.errors import ConfigError, DataError, WeightsError
from seresnet.inference import cached
from seresnet.inference import load as opened
from seresnet.inference.cache import Cache
from seresnet.inference.classifier import load
from tests.networks import seresnet20, tiny

PHOTOS = [Path(skimage.__file__).parent / "data" / name for name in ("astronaut.png", "chelsea.png", "rocket.jpg")]
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("SERESNET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return seresnet.save(seresnet20(), tmp_path_factory.mktemp("weights") / "model")


def images(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, 32, 32), dtype=np.float32)


def by_torch(directory: Path) -> np.ndarray:
    with torch.inference_mode():
        return seresnet.create_model(directory, pretrained=True).eval()(torch.from_numpy(images())).numpy()


def exact(directory: Path, **settings) -> np.ndarray:
    return load(directory, device="cpu", precision="float32", **settings).logits(images())


def forbid_conversion(monkeypatch) -> None:
    def converted(*_: object) -> None:
        raise AssertionError("the network was built again")

    monkeypatch.setattr(opened, "open_network", converted)


def test_the_second_use_needs_no_network_and_gives_the_same(model, place, monkeypatch):
    first = load(model, device="cpu", precision="float32")
    np.testing.assert_allclose(first.logits(images()), by_torch(model), rtol=1e-4, atol=1e-4)
    assert len(list(place.iterdir())) == 1
    forbid_conversion(monkeypatch)
    second = load(model, device="cpu", precision="float32")
    np.testing.assert_array_equal(second.logits(images()), first.logits(images()))
    np.testing.assert_array_equal(second.embed(PHOTOS), first.embed(PHOTOS))
    assert second.predict(PHOTOS) == first.predict(PHOTOS)
    assert (second.labels, second.label_ids, second.preprocess) == (first.labels, first.label_ids, first.preprocess)
    other = load(model, device="cpu", precision="auto")  # one form serves all precisions
    assert np.abs(other.logits(images()) - first.logits(images())).max() < 0.1 * np.abs(first.logits(images())).max()


def test_the_same_weights_elsewhere_are_the_same_entry(model, place, tmp_path, monkeypatch):
    exact(model)
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in model.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    forbid_conversion(monkeypatch)
    assert load(copy, device="cpu").model_name == str(copy)


def test_weights_names_or_transform_that_changed_are_seen(tmp_path, place):
    network = seresnet20()
    directory = seresnet.save(network, tmp_path / "model")
    before = exact(directory)
    with torch.no_grad():
        network.fc.bias += 1
    seresnet.save(network, directory)
    np.testing.assert_allclose(exact(directory), before + 1, rtol=1e-4, atol=1e-4)
    network.labels[0] = "renamed"
    network.preprocess = seresnet.Preprocess((3, 32, 32), crop_pct=0.8)
    seresnet.save(network, directory)
    clf = load(directory, device="cpu")
    assert (clf.labels[0], clf.preprocess.crop_pct) == ("renamed", 0.8)
    assert len(list(place.iterdir())) == 3


def changed(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]


@pytest.fixture(scope="module")
def kept(model, tmp_path_factory) -> Path:
    """A cache in which the model is kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SERESNET_CACHE", str(tmp_path_factory.mktemp("kept")))
        exact(model)
        return Path(os.environ["SERESNET_CACHE"])


@pytest.mark.parametrize("damage", [changed, lambda data: data[: len(data) // 2], lambda data: b"", None])
@pytest.mark.parametrize("file", ["model.xml", "model.bin", "entry.json"])
def test_a_damaged_entry_is_made_anew(model, kept, place, file, damage, caplog, monkeypatch):
    shutil.copytree(kept, place.parent)
    with monkeypatch.context() as patch:
        forbid_conversion(patch)
        expected = exact(model)
    (entry,) = place.iterdir()
    if damage is None:
        (entry / file).unlink()
    else:
        (entry / file).write_bytes(damage((entry / file).read_bytes()))
    np.testing.assert_array_equal(exact(model), expected)
    (made,) = [path for path in place.iterdir() if not path.name.startswith(".")]
    assert Cache().find(made.name).is_whole()
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []


def test_without_a_place_to_write_all_works_with_one_warning(model, tmp_path, monkeypatch, caplog):
    expected = exact(model)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SERESNET_CACHE", str(tmp_path / "file"))
    np.testing.assert_array_equal(exact(model), expected)
    (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "cannot be written" in record.getMessage() and "\n" not in record.getMessage()


def test_what_is_not_kept(model, place):
    load(seresnet20(), device="cpu").logits(images())
    load(model, device="cpu", engine="torch").logits(images())
    assert load(model, device="cpu", num_classes=4).num_classes == 4  # a classifier of random weights
    assert not place.exists()
    assert load(model, device="cpu", num_classes=10).num_classes == 10
    assert len(list(place.iterdir())) == 1


def test_weights_written_over_while_they_are_read_are_not_kept(model, place, monkeypatch):
    digests = iter("ab")
    monkeypatch.setattr(cached, "input_digests", lambda *_: [next(digests)])
    load(model, device="cpu")
    assert not place.exists()


def run(code: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


WITHOUT_TORCH = """
import json, sys
from seresnet.cli import run
code = run(sys.argv[1:])
print(json.dumps([code, sorted({"torch", "huggingface_hub", "safetensors"} & set(sys.modules))]))
"""


@pytest.mark.parametrize("bundled", [True, False])
def test_with_a_warm_cache_predict_imports_no_torch(model, bundled):
    name = "seresnet20.cifar10" if bundled else model
    expected = [prediction.to_dict() for prediction in load(name, device="cpu").predict(PHOTOS[:1], topk=2)]
    arguments = ["predict", str(PHOTOS[0]), "--topk=2", "--format=jsonl", "--device=cpu"]
    process = run(WITHOUT_TORCH, *arguments, *([] if bundled else ["--model", str(model)]))
    out, err = process.communicate(timeout=120)
    rows = [json.loads(line) for line in out.splitlines()]
    assert rows[-1] == [0, []], err
    assert [row["label"] for row in rows[0]["predictions"]] == [row["label"] for row in expected[0]["predictions"]]
    assert rows[0]["predictions"][0]["probability"] == pytest.approx(
        expected[0]["predictions"][0]["probability"], rel=1e-3
    )


AT_ONCE = """
import json, sys, numpy as np
from seresnet.inference.classifier import load
sys.stdin.readline()
clf = load(sys.argv[1], device="cpu", precision="float32")
print(json.dumps(clf.logits(np.ones((1, 3, 32, 32), np.float32)).tolist()))
"""


def test_processes_that_start_at_once_on_a_cold_cache(model, place):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", AT_ONCE, str(model)], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(3)
    ]
    for process in processes:
        process.stdin.write(b"go\n")
        process.stdin.flush()
    answers = [json.loads(process.communicate(timeout=120)[0]) for process in processes]
    assert answers[0] == answers[1] == answers[2]
    (entry,) = place.iterdir()
    assert Cache().find(entry.name).is_whole()


def test_int8_by_calibration_images_is_near_and_kept(model, place, tmp_path, monkeypatch):
    expected = exact(model)
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in PHOTOS:
        (folder / path.name).write_bytes(path.read_bytes())
    clf = load(model, device="cpu", precision="int8", calibration=folder)
    assert clf.engine.precision == "int8"
    difference = np.linalg.norm(clf.logits(images()) - expected) / np.linalg.norm(expected)
    assert 1e-4 < difference < 0.3
    assert len(list(place.iterdir())) == 2
    load(model, device="cpu", precision="int8", calibration=PHOTOS[:2])  # other images, other scales
    assert len(list(place.iterdir())) == 3
    forbid_conversion(monkeypatch)
    again = load(model, device="cpu", precision="int8", calibration=[str(path) for path in sorted(folder.iterdir())])
    np.testing.assert_array_equal(again.logits(images()), clf.logits(images()))


def test_images_from_memory_calibrate_without_being_kept(place):
    pictures = np.random.default_rng(0).integers(0, 256, (4, 20, 20, 3), dtype=np.uint8)
    network = tiny()
    assert load(network, device="cpu", precision="int8", calibration=pictures).engine.precision == "int8"
    assert not place.exists()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"precision": "int8"}, ConfigError, "precision int8 needs calibration images: give calibration"),
        (
            {"precision": "bfloat16", "calibration": PHOTOS},
            ConfigError,
            "calibration is for precision int8, not bfloat16",
        ),
        ({"precision": "int8", "calibration": []}, DataError, "no images to calibrate with"),
        ({"precision": "int8", "calibration": [ROOT / "gone.jpg"]}, DataError, "none of the 1 images .* no such file"),
        (
            {"precision": "int8", "calibration": PHOTOS, "engine": "torch"},
            ConfigError,
            "runs on openvino alone, not on torch",
        ),
        ({"device": "cuda:0", "engine": "openvino"}, ConfigError, "use engine torch for a GPU"),
        ({"engine": "steam"}, ConfigError, "engine 'steam' is unknown"),
        ({"precision": "int3"}, ConfigError, "precision 'int3' is unknown"),
    ],
)
def test_what_cannot_be_is_one_line(model, settings, error, message):
    with pytest.raises(error, match=message) as raised:
        load(model, **{"device": "cpu", **settings})
    assert "\n" not in str(raised.value)


@pytest.fixture
def graph(model, tmp_path) -> Path:
    """A directory with OpenVINO's own form of the network, and no weights for torch."""
    directory = tmp_path / "graph"
    directory.mkdir()
    load(seresnet20(), device="cpu", engine="openvino").engine.save(directory / "openvino_model.xml")
    (directory / "config.json").write_bytes((model / "config.json").read_bytes())
    return directory


def test_openvinos_own_form_is_a_model_too(graph, model, place):
    expected = exact(model)
    for name in (graph, graph / "openvino_model.xml"):
        clf = load(name, device="cpu", precision="float32")
        np.testing.assert_allclose(clf.logits(images()), expected, rtol=1e-5, atol=1e-5)
        assert clf.labels == seresnet20().labels and clf.preprocess == seresnet20().preprocess
    assert len(list(place.iterdir())) == 1  # nothing to convert
    with pytest.raises(ConfigError, match="runs on openvino alone, not on torch"):
        load(graph, device="cpu", engine="torch")
    with pytest.raises(ConfigError, match="has 10 classes for good"):
        load(graph, num_classes=3)
    with pytest.raises(seresnet.SeresnetError, match=r"openvino_model\.xml is for inference alone; open it with"):
        seresnet.create_model(graph, pretrained=True)


def test_openvinos_own_form_needs_no_torch(graph):
    process = run(WITHOUT_TORCH, "predict", str(PHOTOS[0]), "--format=jsonl", "--device=cpu", "--model", str(graph))
    out, err = process.communicate(timeout=120)
    assert json.loads(out.splitlines()[-1]) == [0, []], err


def test_a_graph_from_elsewhere_is_checked_once_and_a_crafted_one_refused(graph, place, monkeypatch):
    load(graph, device="cpu")
    monkeypatch.setattr("seresnet.engines.openvino.check.check_graph", never)
    load(graph, device="cpu")  # is known by its hash
    monkeypatch.undo()
    monkeypatch.setenv("SERESNET_CACHE", str(place.parent))
    text = (graph / "openvino_model.xml").read_text()
    (graph / "openvino_model.xml").write_text(text.replace('strides="1, 1"', 'strides="0, 0"'))
    for _ in range(2):  # a refusal is not remembered as good
        with pytest.raises(WeightsError, match="not a graph that seresnet wrote"):
            load(graph, device="cpu")


def test_the_number_of_classes_is_that_of_the_graph(graph):
    config = json.loads((graph / "config.json").read_text())
    (graph / "config.json").write_text(json.dumps({**config, "num_classes": 3, "label_names": ["a", "b", "c"]}))
    with pytest.raises(WeightsError, match=r"it has 10 classes, config\.json says 3"):
        load(graph, device="cpu")


def never(*_: object) -> None:
    raise AssertionError("checked again")
