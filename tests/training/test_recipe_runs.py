"""What the recipes add to a run: patience, mixing, frozen batch norm, class weights, several labels, repetition."""

import csv
import json
import logging
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from seresnet.data.augment import TrainCrop
from seresnet.data.folder import image_folder
from seresnet.data.loader import Loader
from seresnet.data.preprocess import Preprocess
from seresnet.inference.classifier import load
from seresnet.recipes import recipe
from seresnet.training.config import TrainConfig, read_config
from seresnet.training.train import train
from seresnet.training.trainer import Trainer, TrainingStopped
from seresnet.weights.create import create_model
from tests.made_images import COLORS, color_folder
from tests.training.test_trainer import assert_same_run, config, stop_after, weights

FULL: dict[str, object] = {
    "mixup": 0.2,
    "cutmix": 1.0,
    "rand_augment": 7.0,
    "repeated_aug": 3,
    "crop": "resized",
    "pixel_noise": 10,
    "loss": "bce",
    "bce_threshold": 0.2,
    "class_weights": "balanced",
    "layer_decay": 0.7,
    "optimizer": "lamb",
    "lr": 0.005,
    "train_size": 24,
    "grad_accum_steps": 2,
}


@pytest.fixture(scope="module")
def colors(tmp_path_factory) -> Path:
    folder = color_folder(tmp_path_factory.mktemp("colors"), per_class=24)
    for name in ("blue/000.png", "blue/001.png", "green/005.png"):  # or class weights would all be 1
        (folder / name).unlink()
    return folder


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> Path:
    """Enough images for three steps, of classes of different sizes."""
    folder = color_folder(tmp_path_factory.mktemp("few"), per_class=11)
    for name in ("blue/000.png", "blue/001.png", "green/005.png"):
        (folder / name).unlink()
    return folder


@pytest.fixture(scope="module")
def everything(few, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "everything"
    train(config(**FULL, epochs=1), few, run)
    return run


def table(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((run / "metrics.csv").open()))


def test_a_run_with_all_of_it_resumes_exactly(colors, tmp_path, monkeypatch):
    settings = config(**FULL)
    train(settings, colors, tmp_path / "whole")
    stop_after(monkeypatch, 10)  # of 14
    with pytest.raises(TrainingStopped):
        train(settings, colors, tmp_path / "parts")
    monkeypatch.undo()
    train(settings, colors, tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("key", [key for key in FULL if key not in ("lr", "bce_threshold", "crop")])
def test_each_setting_changes_the_weights(few, everything, tmp_path, key):
    """What is read by nobody would leave the weights as they are."""
    without = {**FULL, key: getattr(TrainConfig(), key)}
    train(config(**without, epochs=1), few, tmp_path / "without")
    assert not torch.equal(weights(everything)["fc.weight"], weights(tmp_path / "without")["fc.weight"])


@pytest.mark.parametrize("world", [1, 2])
def test_repeated_images_stand_together_each_with_a_crop_of_its_own(colors, world):
    images = image_folder(colors)
    crop = TrainCrop("resized", Preprocess((3, 16, 16)), (0.2, 0.5))
    loaders = [Loader(images.samples, crop, 8, 1, rank=r, world=world, repeated_aug=3) for r in range(world)]
    found: dict[int, tuple[Path, bytes]] = {}
    for loader in loaders:
        assert loader.batches_per_epoch() == 69 // (8 * world)
        for number, batch in enumerate(loader.epoch(2)):
            for path, pixels, position in zip(batch.paths, batch.pixels, batch.positions, strict=True):
                found[number * 8 * world + int(position)] = (path, pixels.tobytes())
    order = [found[i] for i in range(64)]
    assert len(order) == len(found)
    assert [len({path for path, _ in order[i : i + 3]}) for i in range(0, 63, 3)] == [1] * 21
    assert len({path for path, _ in order}) == 22
    assert len({pixels for _, pixels in order}) == 64
    whole = [path for batch in loaders[0].epoch(2) for path in batch.paths]
    rest = [path for batch in loaders[0].epoch(2, skip=2) for path in batch.paths]
    assert rest == whole[16:]


def test_a_run_ends_when_its_patience_does_and_a_resumed_one_as_well(colors, tmp_path, monkeypatch):
    """A rate of zero never gets better: the best epoch is the first, and two more is as far as it goes."""
    settings = config(epochs=50, lr=0.0, ema_decay=None, patience=2, checkpoint_minutes=1000)
    result = train(settings, colors, tmp_path / "whole")
    rows = table(tmp_path / "whole")
    best = max(range(len(rows)), key=lambda i: float(rows[i]["val_top1"]))  # the first of the best
    assert result.epochs == len(rows) == best + 1 + 2
    assert "early stopping: no improvement for 2 epochs; best epoch" in (tmp_path / "whole" / "log.txt").read_text()
    steps = int(rows[0]["step"])
    stop_after(monkeypatch, steps * (len(rows) - 1) + 3)  # in the last epoch
    with pytest.raises(TrainingStopped):
        train(settings, colors, tmp_path / "parts")
    monkeypatch.undo()
    train(settings, colors, tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    before = (tmp_path / "parts" / "metrics.csv").read_bytes()
    assert train(settings, colors, tmp_path / "parts", resume=True).epochs == len(rows)  # and has nothing left to do
    assert (tmp_path / "parts" / "metrics.csv").read_bytes() == before


def test_a_better_epoch_starts_patience_anew_and_an_equal_one_does_not(colors, tmp_path, monkeypatch):
    scores = iter([0.5, 0.4, 0.6, 0.55, 0.6, 0.5, 0.9, 0.9])
    validate = Trainer.validate
    monkeypatch.setattr(Trainer, "validate", lambda self, m: validate(self, m) | {"val_top1": next(scores)})
    result = train(config(epochs=8, patience=3), colors, tmp_path / "run")
    assert (result.epochs, result.best_score, result.last_score) == (6, 0.6, 0.5)


def test_frozen_statistics_stay_while_the_weights_of_batch_norm_learn(colors, tmp_path):
    train(config(epochs=1), colors, tmp_path / "first")
    start = load_file(tmp_path / "first" / "last" / "model.safetensors")
    model = str(tmp_path / "first" / "last")
    train(config(model=model, pretrained=True, freeze_bn=True, ema_decay=None), colors, tmp_path / "frozen")
    end = weights(tmp_path / "frozen")
    for key, before in start.items():
        same = torch.equal(before, end[key])
        if "running" in key:
            assert same, key
        elif key.endswith(("bn1.weight", "conv1.weight")):
            assert not same, key


def test_a_run_that_is_repeated_from_its_config_has_the_same_weights(colors, tmp_path):
    chosen = {"auto_batch_size": True, "lr_reference_batch": 32, "freeze_bn": "auto", "epochs": 1, "crop": "resized"}
    train(config(**chosen), colors, tmp_path / "one")
    written = json.loads((tmp_path / "one" / "config.json").read_text())
    assert written["global_batch_size"] == 8
    assert written["lr_used"] == pytest.approx(0.05 * 8 / 32)
    assert (written["auto_batch_size"], written["freeze_bn"]) == (False, False)
    settings, data = read_config(tmp_path / "one" / "config.json")
    train(settings, data, tmp_path / "two")
    assert_same_run(tmp_path / "one", tmp_path / "two")
    again = json.loads((tmp_path / "two" / "config.json").read_text())
    assert again == written


def test_a_test_part_is_never_read(tmp_path, monkeypatch):
    """Validation comes out of train; no image of test is opened, and the test images change nothing."""
    from seresnet.data import loader

    read: list[str] = []
    decode = loader.decode
    monkeypatch.setattr(loader, "decode", lambda source, *a, **k: read.append(str(source)) or decode(source, *a, **k))
    color_folder(tmp_path / "data" / "train", per_class=12)
    train(config(epochs=1), tmp_path / "data", tmp_path / "without")
    color_folder(tmp_path / "data" / "test", per_class=12, seed=1)
    read.clear()
    train(config(epochs=1), tmp_path / "data", tmp_path / "with")
    train_folder = str(tmp_path / "data" / "train")
    assert len(set(read)) == 36
    assert all(path.startswith(train_folder) for path in read)
    assert_same_run(tmp_path / "without", tmp_path / "with")


def test_finetune_says_what_it_decided(tmp_path, caplog):
    data = color_folder(tmp_path / "data", per_class=20)
    for name in ("blue/003.png", "blue/004.png", "blue/005.png", "blue/006.png"):
        (data / name).unlink()
    caplog.set_level(logging.INFO, "seresnet")
    settings = recipe("finetune").updated({"epochs": 2, "precision": "float32", "class_weights": "balanced"})
    result = train(settings, data, tmp_path / "run")
    assert "batch 8" in caplog.text and "learning rate 0.005" in caplog.text
    assert "batch-norm statistics frozen" not in caplog.text
    assert "class weights from 0.93 (green) to 1.2 (blue)" in caplog.text  # 50 / (3 * 18) and 50 / (3 * 14)
    assert result.best_score > 0.8


def answers_each_label_for_itself(model: Path, image: Path) -> None:
    """From its weights, from the cache and as an nn.Module, the saved model says that its labels exclude no others."""
    assert create_model(str(model), pretrained=True).multi_label
    assert not create_model(str(model), pretrained=True, num_classes=5).multi_label
    for _ in range(2):
        classifier = load(model, precision="float32", device="cpu")
        (prediction,) = classifier.predict(image, topk=3)
        ((scored,),) = classifier.scored([image])
        expected = torch.from_numpy(scored.logits)[list(prediction.indices)].sigmoid()
        assert prediction.probabilities == pytest.approx(expected.tolist(), rel=1e-4)
        assert sum(prediction.probabilities) != pytest.approx(1, abs=1e-3)


def test_several_labels_an_image(tmp_path, monkeypatch):
    """Pictures of two halves: each colour that is shown is a label."""
    monkeypatch.setenv("SERESNET_CACHE", str(tmp_path / "cache"))
    rng, rows = np.random.default_rng(0), ["path,labels"]
    shown = [*([name] for name in COLORS), *(list(pair) for pair in combinations(COLORS, 2))]
    for i in range(96):
        names = shown[i % len(shown)]
        halves = [np.broadcast_to(COLORS[name], (16, 8, 3)) for name in (names * 2)[:2]]
        pixels = rng.normal(np.concatenate(halves, 1), 20).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,{';'.join(names)}")
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    settings = config(epochs=6, lr=0.1, class_weights="balanced", patience=20)
    result = train(settings, tmp_path / "list.csv", tmp_path / "run")
    assert result.score == "val_map"
    assert result.best_score > 0.9
    found = table(tmp_path / "run")
    assert result.best_score == pytest.approx(max(float(row["val_map"]) for row in found), abs=1e-6)
    assert "mAP" in (tmp_path / "run" / "log.txt").read_text()
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert written["loss"] == "bce"
    answers_each_label_for_itself(tmp_path / "run" / "best", tmp_path / "3.png")
    assert (tmp_path / "run" / "curves.png").stat().st_size > 5000
