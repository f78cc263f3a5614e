"""Temperature scaling: against another optimizer, and the saved model against the one that it was made of."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.optimize import minimize_scalar

import seresnet
from seresnet.data.image_hashes import FILE, image_hash, write_hashes
from seresnet.errors import ConfigError, DataError
from seresnet.evaluation.calibrate import calibrate, fit_temperature
from seresnet.explanation.explain import Explainer
from seresnet.inference.load import network_of_name
from tests.cli.terminal import here
from tests.networks import ANIMALS, seresnet20
from tests.photographs import pieces


def negative_log_likelihood(logits: np.ndarray, targets: np.ndarray) -> float:
    return float(np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(logits)), targets]))


def test_the_temperature_is_the_one_that_another_optimizer_finds_and_that_data_were_drawn_with():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (20_000, 5))
    chances = np.exp(logits / 2.5)
    targets = (chances.cumsum(1) / chances.sum(1, keepdims=True) < rng.random((len(logits), 1))).sum(1)
    found = fit_temperature(torch.from_numpy(logits), torch.from_numpy(targets))
    best = minimize_scalar(lambda t: negative_log_likelihood(logits / t, targets), bounds=(0.5, 10), method="bounded")
    assert found == pytest.approx(best.x, rel=1e-4) and found == pytest.approx(2.5, rel=0.03)


@pytest.mark.parametrize(("wrong", "why"), [(False, "predicted right"), (True, "no better than chance")])
def test_images_that_determine_no_temperature_are_refused(wrong, why):
    logits = torch.eye(4) * 5
    with pytest.raises(DataError, match=why):
        fit_temperature(logits, (logits.argmax(1) + wrong) % 4)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A small network that is far too sure, and the images that it was trained on."""
    network = seresnet20()
    network.fc.weight.data *= 5
    return seresnet.save(network, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def data(model, tmp_path_factory) -> Path:
    """Pictures in the folder of their predicted class, and every fourth in the next one."""
    root, clf = tmp_path_factory.mktemp("data"), seresnet.load(model, precision="float32")
    for i, image in enumerate(list(pieces())[:80]):
        kind = (clf.predict(image, topk=1)[0].indices[0] + (i % 4 == 0)) % 10
        (root / f"kind {kind}").mkdir(exist_ok=True)
        image.save(root / f"kind {kind}" / f"{i}.png")
    write_hashes(model, np.array([image_hash(path) for path in sorted(root.rglob("*.png"))[:7]], np.uint64))
    return root


def test_every_use_of_the_saved_model_has_the_temperature_and_classes_stay(model, data, tmp_path):
    found = calibrate(model, data, tmp_path / "out")
    assert found.temperature > 2 and found.images == 80 and found.notes[-1].startswith("80 images are few")
    before, after = (seresnet.evaluate(path, data) for path in (model, tmp_path / "out"))
    for values, key in ((found.nll, "nll"), (found.ece, "ece")):
        assert values == pytest.approx([getattr(e.metrics, key) for e in (before, after)], rel=1e-4)
        assert values[1] < values[0]
    assert before.metrics.top1 == after.metrics.top1 == found.top1
    np.testing.assert_array_equal(before.metrics.confusion, after.metrics.confusion)
    images = sorted(data.rglob("*.png"))[:5]
    for engine in ("openvino", "torch", "onnxruntime"):
        first, second = (seresnet.load(p, engine, "float32") for p in (model, tmp_path / "out"))
        for image in images:
            x = first.preprocess(Image.open(image))[None].numpy()
            np.testing.assert_allclose(second.logits(x), first.logits(x) / found.temperature, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(second.embed(images), first.embed(images), rtol=1e-5)
    explained = Explainer(network_of_name(str(tmp_path / "out"))).explain(images[0])
    assert explained.probability == pytest.approx(second.predict(images[0], topk=1)[0].probabilities[0], rel=1e-4)
    kept = json.loads((tmp_path / "out" / "config.json").read_text())["calibration"]
    assert kept["temperature"] == found.temperature and kept["nll"] == list(found.nll)
    np.testing.assert_array_equal(np.load(tmp_path / "out" / FILE), np.load(model / FILE))
    assert calibrate(tmp_path / "out", data, tmp_path / "again").temperature == pytest.approx(1, rel=1e-3)


def test_labels_of_a_multi_label_model_are_calibrated_each_by_itself(tmp_path):
    network = seresnet20()
    network.reset_classifier(3)
    network.fc.weight.data.normal_(0, 2, generator=torch.Generator().manual_seed(0))
    network.labels, network.multi_label = list(ANIMALS), True
    seresnet.save(network, tmp_path / "model")
    clf, images = seresnet.load(tmp_path / "model", precision="float32"), list(pieces())[:60]
    scores = clf.logits(np.stack([clf.preprocess(image).numpy() for image in images]))
    truth = np.random.default_rng(0).random(scores.shape) < 1 / (1 + np.exp(-scores / 3))
    lines = ["path,labels"]
    for i, (image, row) in enumerate(zip(images, truth, strict=True)):
        image.save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{';'.join(name for name, has in zip(ANIMALS, row, strict=True) if has)}")
    (tmp_path / "list.csv").write_text("\n".join(lines), encoding="utf-8")
    found = calibrate(tmp_path / "model", tmp_path / "list.csv", tmp_path / "out")

    def loss(t: float) -> float:
        return float(np.logaddexp(0, np.where(truth, -scores, scores) / t).mean())

    best = minimize_scalar(loss, bounds=(0.1, 15), method="bounded")
    assert found.temperature == pytest.approx(best.x, rel=1e-3) and found.temperature > 1.5
    measured = seresnet.evaluate(tmp_path / "out", tmp_path / "list.csv").metrics.nll
    assert found.nll == pytest.approx([loss(1), loss(best.x)], rel=1e-4) and measured == pytest.approx(found.nll[1])


def test_nothing_but_a_model_is_replaced_and_a_model_without_classes_is_refused(model, data, tmp_path):
    (tmp_path / "photographs").mkdir()
    (tmp_path / "photographs" / "cat.png").touch()
    with pytest.raises(ConfigError, match="not empty"):
        calibrate(model, data, tmp_path / "photographs")
    with pytest.raises(ConfigError, match=r"more than a saved model \(cat.png\)"):
        calibrate(model, data, tmp_path / "photographs", exist_ok=True)
    network = seresnet20()
    network.reset_classifier(0)
    with pytest.raises(ConfigError, match="no two classes"):
        calibrate(seresnet.save(network, tmp_path / "none"), data, tmp_path / "out")


def test_the_command_says_what_changed_and_which_images_are_no_measure(model, data, tmp_path):
    broken = next(data.iterdir()) / "broken.png"
    broken.write_bytes(b"no image")
    done = here("calibrate", data, "--model", model, "--out", tmp_path / "out")
    broken.unlink()
    assert done.returncode == 1 and b"was trained on 7 of these images; these images are no measure" in done.stderr
    lines = done.stdout.decode().splitlines()
    assert lines[0].endswith(": 80 images") and lines[1].startswith("temperature") and len(lines) == 6
    done = here("calibrate", data, "--model", model, "--out", tmp_path / "out", "--exist-ok", "--format=json")
    assert done.returncode == 0 and json.loads(done.stdout)["temperature"] == pytest.approx(float(lines[1][28:]), 1e-4)
