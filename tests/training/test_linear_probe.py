"""The linear probe: scikit-learn's solution, unreadable and unbalanced images, one rank and two, and what it starts."""

import csv
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression

from seresnet.data.augment import TrainCrop
from seresnet.data.folder import image_folder
from seresnet.data.loader import Loader
from seresnet.data.preprocess import Preprocess
from seresnet.inference.classifier import load
from seresnet.recipes import recipe
from seresnet.training import linear_probe as probing
from seresnet.training.config import TrainConfig
from seresnet.training.linear_probe import Features, fit, minimize
from seresnet.training.losses import ImageLoss, soft_targets
from seresnet.training.train import train
from seresnet.training.trainer import Trainer, TrainingStopped
from tests.made_images import COLORS, color_folder
from tests.training.test_trainer import assert_same_run, stop_after, weights

CPU = torch.device("cpu")
LOSS = ImageLoss(TrainConfig(), multi_label=False)


def blobs(n: int, classes: int, dims: int, seed: int, noise: float = 1.0) -> Features:
    """Return features around one centre a class, with scales and offsets that differ by dimension."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, dims, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(n) % classes
    x = centres[targets] + noise * torch.randn(n, dims, generator=generator)
    return Features(x * torch.logspace(-2, 2, dims) + 5, soft_targets(targets, classes))


def test_the_minimum_is_scikit_learns():
    data = blobs(120, 4, 6, seed=1)
    x, decay = (data.x - data.x.mean(0)) / data.x.std(0), 0.03
    linear = torch.nn.Linear(6, 4)
    minimize(linear, x, data.targets, LOSS, decay)
    reference = LogisticRegression(C=1 / (decay * len(x)), tol=1e-8, max_iter=1000).fit(x, data.targets.argmax(1))
    ours = torch.softmax(linear(x), 1).detach().numpy()
    assert np.abs(ours - reference.predict_proba(x)).max() < 2e-3


def test_the_weight_decay_with_the_lowest_held_out_loss_is_chosen():
    train_set, val_set = blobs(60, 5, 40, seed=1, noise=3), blobs(500, 5, 40, seed=2, noise=3)
    result = fit(train_set, val_set, LOSS, LOSS, CPU)
    chosen = LOSS(val_set.x @ result.weight.T + result.bias, val_set.targets).mean()
    mean, std = train_set.x.mean(0), train_set.x.std(0, correction=0)
    for decay in (1.0, 0.001):
        linear = torch.nn.Linear(40, 5)
        minimize(linear, (train_set.x - mean) / std, train_set.targets, LOSS, decay)
        assert chosen < LOSS(linear((val_set.x - mean) / std), val_set.targets).mean()


@pytest.mark.parametrize("constant", [0.0, 7.0])
def test_a_feature_that_never_varies_gets_no_weight(constant):
    data = blobs(40, 2, 3, seed=1)
    data.x[:, 1] = constant
    result = fit(data, data, LOSS, LOSS, CPU)
    assert result.weight[:, 1].abs().max() == 0
    assert result.weight.isfinite().all() and result.train_top1 > 0.7


def test_a_thousand_classes_of_one_image_each():
    data = blobs(1000, 1000, 64, seed=1, noise=0.1)
    result = fit(data, blobs(1000, 1000, 64, seed=2, noise=0.1), LOSS, LOSS, CPU)
    assert result.weight.shape == (1000, 64)
    assert result.train_top1 > 0.9


def quick(name: str, **settings: object) -> TrainConfig:
    return recipe(name).updated({"size": 16, "precision": "float32", "workers": 1, **settings})


def rows(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((run / "metrics.csv").open()))


def test_the_recipe_probe_saves_a_model_that_predicts(tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("SERESNET_CACHE", str(tmp_path / "cache"))
    caplog.set_level(logging.INFO, "seresnet")
    data = color_folder(tmp_path / "data", per_class=12)
    (data / "red" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n no image")
    result = train(quick("probe"), data, tmp_path / "run")
    assert (result.epochs, result.best_epoch) == (0, 0)
    assert result.best_score == result.last_score > 0.9
    assert [row["epoch"] for row in rows(tmp_path / "run")] == ["0"]
    assert "broken.png" in caplog.text
    assert "linear probe alone, on cpu" in caplog.text and "linear probe in " in caplog.text
    for other in ("learning rate", "epoch", "batch-norm", "fused network"):
        assert other not in caplog.text
    for model in (result.last, result.best):
        classifier = load(model, precision="float32", device="cpu")
        assert classifier.labels == sorted(COLORS)
        answers = classifier.predict([data / name / "003.png" for name in COLORS])
        assert [answer.labels[0] for answer in answers] == list(COLORS)


def test_the_network_itself_stays_as_it_was(tmp_path):
    data = color_folder(tmp_path / "data", per_class=6)
    train(quick("probe"), data, tmp_path / "run")
    from seresnet.weights.create import create_model

    before = create_model("seresnet20.cifar10", pretrained=True).state_dict()
    after = weights(tmp_path / "run")
    assert all(torch.equal(before[key], after[key]) for key in after if not key.startswith("fc."))


@pytest.mark.parametrize("per_class", [2, 3])
def test_two_and_three_images_a_class(tmp_path, per_class):
    data = color_folder(tmp_path / "data", per_class=per_class)
    result = train(quick("finetune", epochs=2), data, tmp_path / "run")
    probed, *epochs = (float(row["val_top1"]) for row in rows(tmp_path / "run"))
    assert len(epochs) == 2
    assert result.best_score == pytest.approx(max(probed, *epochs), abs=1e-6)


def test_best_is_never_below_the_probe(tmp_path, monkeypatch):
    """Training that ruins everything leaves the probe in best/."""
    data = color_folder(tmp_path / "data", per_class=12)
    result = train(
        quick("finetune", epochs=2, lr=20.0, clip_grad=1.0, ema_decay=None, precise_bn=False), data, tmp_path / "run"
    )
    assert (result.best_epoch, result.best_score) == (0, float(rows(tmp_path / "run")[0]["val_top1"]))
    assert result.last_score < result.best_score
    train(quick("probe"), data, tmp_path / "probe")
    from safetensors.torch import load_file

    best, alone = load_file(result.best / "model.safetensors"), weights(tmp_path / "probe")
    assert torch.equal(best["fc.weight"], alone["fc.weight"])


@pytest.mark.parametrize("stop_in", ["probe", "step"])
def test_an_interrupted_run_ends_like_an_uninterrupted_one(tmp_path, monkeypatch, stop_in):
    data = color_folder(tmp_path / "data", per_class=12)
    settings = quick("finetune", epochs=2)
    train(settings, data, tmp_path / "whole")
    if stop_in == "step":
        stop_after(monkeypatch, 2)
    else:
        validate = Trainer.validate

        def stopped(self, model):
            import signal

            if self.stop.number is None:  # a second signal would end this process at once
                signal.raise_signal(signal.SIGTERM)
            return validate(self, model)

        monkeypatch.setattr(Trainer, "validate", stopped)
    with pytest.raises(TrainingStopped):
        train(settings, data, tmp_path / "parts")
    monkeypatch.undo()
    fits: list[int] = []
    original = probing.fit
    monkeypatch.setattr(probing, "fit", lambda *a: fits.append(1) or original(*a))
    train(settings, data, tmp_path / "parts", resume=True)
    assert len(fits) == (stop_in == "probe")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_several_labels_an_image(tmp_path):
    rng, lines = np.random.default_rng(0), ["path,labels"]
    for i in range(48):
        names = [name for name, shown in zip(COLORS, rng.random(3) < 0.5, strict=True) if shown] or ["red"]
        halves = [np.broadcast_to(COLORS[name], (16, 6, 3)) for name in (names * 3)[:3]]
        Image.fromarray(np.concatenate(halves, 1).astype(np.uint8)).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{';'.join(names)}")
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    result = train(quick("probe"), tmp_path / "list.csv", tmp_path / "run")
    assert result.score == "val_map"
    assert result.best_score > 0.8


def test_features_beyond_the_memory_are_those_of_evenly_spaced_images(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "seresnet")
    data = color_folder(tmp_path / "data", per_class=12)
    monkeypatch.setattr(probing, "MAX_FEATURE_BYTES", 4 * 64 * 17)  # of 33 training images
    result = train(quick("probe"), data, tmp_path / "run")
    assert "fitted to one of 2 training images" in caplog.text
    assert result.best_score > 0.6


def test_each_rank_computes_the_features_of_its_own_images(tmp_path):
    images = image_folder(color_folder(tmp_path / "data", per_class=5))

    class Mean:
        preferred_batch = 4

        def embed(self, x):
            return x.mean((2, 3))

    crop = TrainCrop("center", Preprocess((3, 16, 16)))
    own = [
        probing.features(Mean(), Loader(images.samples, crop, 4, 0, rank=rank, world=2), "images", quiet=True)
        for rank in range(2)
    ]
    assert [len(x) for x, _ in own] == [8, 7]
    assert sorted(np.concatenate([targets for _, targets in own])) == sorted(t for _, t in images.samples)
