"""Directories and their ``config.json``, right and wrong."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import save_file

import seresnet
from seresnet.errors import WeightsError
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
    assert "architecture 'vit_base' is no SE-ResNet of this package; use timm" in changed(
        tmp_path, architecture="vit_base"
    )
    assert "names no architecture" in changed(tmp_path, architecture=None)
    assert "global_pool 'sum' is not supported" in changed(tmp_path, global_pool="sum")
    assert "has 10 classes, not the 12" in changed(tmp_path, num_classes=12)
    assert "num_classes is 'ten'" in changed(tmp_path, num_classes="ten")
    assert "has 2 class names for 10 classes" in changed(tmp_path, label_names=["a", "b"])
    assert "label_names in config.json is no list" in changed(tmp_path, label_names=7)
    assert "no usable preprocessing" in changed(tmp_path, input_size=[3, -1, 32])
    assert "no usable preprocessing" in changed(tmp_path, std=[0, 0, 0])
    assert "no usable preprocessing" in changed(tmp_path, interpolation="magic")
    assert "model_args aa_layer in config.json are unknown" in changed(tmp_path, model_args={"aa_layer": "blur"})
    assert "must be numbers" in changed(tmp_path, model_args={"drop_rate": "high"})


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"<html>", b"\xff\xfe", b"[" * 100_000, b"3"])
def test_configurations_that_are_none(tmp_path, content: bytes) -> None:
    seresnet.save(small(), tmp_path)
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(WeightsError, match=r"config\.json: (no readable JSON|names no architecture)"):
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
