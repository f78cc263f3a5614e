"""Directories and their ``config.json``, right and wrong."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError

import pytest
import torch
from safetensors.torch import save_file

import seresnet
from seresnet.errors import WeightsError
from seresnet.weights.source import resolve
from tests.weights.nets import equal, small


def changed(tmp_path, **changes: object) -> str:
    """Return the refusal of a saved directory whose configuration was changed."""
    seresnet.save(small(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for key, value in changes.items():
        (config["pretrained_cfg"] if key in config["pretrained_cfg"] and key not in config else config)[key] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError) as raised:
        seresnet.create_model(tmp_path, pretrained=True)
    message = str(raised.value)
    assert "\n" not in message and len(message) < 500
    return message


def test_configurations_that_are_wrong(tmp_path) -> None:
    assert "architecture 'vit_base' is not an SE-ResNet of this package; use timm" in changed(
        tmp_path, architecture="vit_base"
    )
    assert "names no architecture" in changed(tmp_path, architecture=None)
    assert "global_pool 'sum' is not supported" in changed(tmp_path, global_pool="sum")
    assert "has 10 classes, not the 12" in changed(tmp_path, num_classes=12)
    assert "num_classes in config.json is 'ten'" in changed(tmp_path, num_classes="ten")
    assert "has 2 class names for 10 classes" in changed(tmp_path, label_names=["a", "b"])
    assert "label_names in config.json is 7, not a list" in changed(tmp_path, label_names=7)
    assert "no usable preprocessing" in changed(tmp_path, input_size=[3, -1, 32])
    assert "no usable preprocessing" in changed(tmp_path, std=[0, 0, 0])
    assert "no usable preprocessing" in changed(tmp_path, interpolation="magic")
    assert "model_args aa_layer in config.json are unknown" in changed(tmp_path, model_args={"aa_layer": "blur"})
    message = changed(tmp_path, model_args={"drop_rate": "high"})
    assert "drop_rate in model_args of config.json is 'high'; it must be a number from 0 to 1" in message


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"<html>", b"\xff\xfe", b"[" * 100_000, b"3"])
def test_configurations_that_are_none(tmp_path, content: bytes) -> None:
    seresnet.save(small(), tmp_path)
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(WeightsError, match=r"config\.json: (not readable as JSON|names no architecture)"):
        seresnet.create_model(tmp_path, pretrained=True)
    (tmp_path / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"has no config.json"):
        seresnet.create_model(tmp_path, pretrained=True)


def test_directory_without_weights(tmp_path) -> None:
    seresnet.save(small(), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"has no model\.safetensors; the directory is incomplete"):
        seresnet.create_model(tmp_path, pretrained=True)


def test_a_foreign_config_beside_a_file_is_left_alone(tmp_path) -> None:
    """A training run keeps its own config.json beside the weights."""
    save_file(small().state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"lr": 0.1}')
    assert equal(seresnet.create_model(tmp_path / "model.safetensors", pretrained=True), small())


def test_class_names_in_timms_several_forms(tmp_path) -> None:
    def labels(**changes: object) -> tuple[list[str], list[str]]:
        seresnet.save(small(num_classes=3), tmp_path)
        config = json.loads((tmp_path / "config.json").read_text()) | changes
        (tmp_path / "config.json").write_text(json.dumps(config))
        model = seresnet.create_model(tmp_path, pretrained=True)
        return model.labels, model.label_ids

    assert labels(label_names=["a", "b", "c"]) == (["a", "b", "c"], [])
    assert labels(label_names={"0": "a", "2": "c"}) == (["a", "class 1", "c"], [])
    described = {"label_names": ["n1", "n2", "n3"], "label_descriptions": {"n1": "cat", "n2": "crane", "n3": "crane"}}
    assert labels(**described) == (["cat", "crane (n2)", "crane (n3)"], ["n1", "n2", "n3"])


def test_a_training_run_means_its_best_model(tmp_path, caplog) -> None:
    """Its own config.json holds the settings of the run."""
    run = tmp_path / "run"
    seresnet.save(small(), run / "last")
    (run / "config.json").write_text('{"epochs": 3}')
    assert equal(seresnet.create_model(run, pretrained=True), small())
    best = small()
    best.fc.bias.data += 1
    seresnet.save(best, run / "best")
    assert equal(seresnet.create_model(run, pretrained=True), best)
    clf = seresnet.load(run, engine="torch", device="cpu")
    assert clf.labels == small().labels
    assert caplog.messages[:2] == [
        f"{run} is a training run: using its last model, {run / 'last'}",
        f"{run} is a training run: using its best model, {run / 'best'}",
    ]


def test_a_directory_without_a_classifier(tmp_path) -> None:
    headless = small()
    headless.reset_classifier(0)
    seresnet.save(headless, tmp_path)
    loaded = seresnet.create_model(tmp_path, pretrained=True)
    assert loaded.num_classes == 0 and equal(loaded, headless)
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(loaded.eval()(x), headless.eval()(x))
    assert seresnet.create_model(tmp_path, pretrained=True, num_classes=4).num_classes == 4


def test_what_a_name_resolves_to_is_a_value(tmp_path) -> None:
    seresnet.save(small(), tmp_path)
    source = resolve(str(tmp_path))
    with pytest.raises(FrozenInstanceError):
        source.arch = "other"  # type: ignore[misc]
    assert (source.arch, source.path, source.num_classes) == ("seresnet20", tmp_path / "model.safetensors", 10)
    assert resolve(str(tmp_path), pretrained=False).path is None
    with pytest.raises(WeightsError, match=r"did you mean .*legacy_seresnet50"):
        resolve("legacy_seresnet51")
    with pytest.raises(WeightsError, match=r"legacy_seresnet50 has no such weights; there are legacy_seresnet50\.in1k"):
        resolve("legacy_seresnet50.in21k")
