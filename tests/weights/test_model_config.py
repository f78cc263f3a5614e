"""A crafted config.json: each value is bounded, refused in one line, in little time and memory."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest

from seresnet.errors import WeightsError
from seresnet.weights.model_config import MAX_CLASSES, ModelConfig, read_model_config

GOOD = {"architecture": "seresnet20", "num_classes": 3, "pretrained_cfg": {"input_size": [3, 32, 32], "crop_pct": 1.0}}


def read(tmp_path: Path, text: str) -> ModelConfig:
    (tmp_path / "config.json").write_text(text)
    return read_model_config(tmp_path / "config.json", "mine")


def changed(**changes: object) -> str:
    return json.dumps(GOOD | changes)


CRAFTED = {
    "3e8 classes": (changed(num_classes=300_000_000), "num_classes in config.json is 300000000; it must be an integer"),
    "a float of classes": (changed(num_classes=3.0), "num_classes in config.json is 3.0"),
    "a number of classes of 4,000 digits": (
        changed().replace('"num_classes": 3', '"num_classes": ' + "9" * 4000),
        "num_classes in config.json is an integer of 13,288 bits",
    ),
    "a number of 5,000 digits": (changed().replace("3", "9" * 5000, 1), "not readable as JSON"),
    "a key of 5,000 digits": (changed(label_names={"1" * 5000: "a"}), "keys that are not class indices"),
    "a key far beyond the classes": (changed(label_names={"9999999": "a"}), "keys that are not class indices"),
    "keys that are not numbers": (changed(label_names={"cat": 0}), "keys that are not class indices"),
    "8,192 pixels": (changed(input_size=[3, 8192, 8192]), "at most 4,096 pixels"),
    "no pixels": (changed(input_size=[3, 0, 32]), "no usable preprocessing"),
    "a million channels": (changed(input_size=[10**6, 32, 32]), "no usable preprocessing"),
    "a million means": (
        changed(mean=[0.5] * 10**6),
        "mean is a list of 1,000,000 values",
    ),
    "a text for a size": (changed(input_size="333"), "input_size is '333'; it must be a list"),
    "std of 1e-38": (changed(std=[1e-38] * 3), "std must be at least 1e-6"),
    "std of 1e38": (changed(std=[1e38] * 3), "mean and std must be of a usual size"),
    "a mean of 4,000 digits": (changed(mean=[int("9" * 4000)] * 3), "no usable preprocessing"),
    "NaN": (changed(mean=[float("nan")] * 3), "no usable preprocessing"),
    "drop_rate beyond 1": (changed(model_args={"drop_rate": 7}), "drop_rate in model_args of config.json is 7"),
    "NaN for drop_rate": (changed(model_args={"drop_rate": float("nan")}), "drop_rate in model_args of config.json is"),
    "a billion input channels": (changed(model_args={"in_chans": 10**9}), "in_chans in model_args of config.json is"),
    "a thousand strange arguments": (
        changed(model_args={f"a{i}\x1b": 1 for i in range(1000)}),
        "model_args a0\\x1b, a1\\x1b, a2\\x1b, a3\\x1b, a4\\x1b in config.json are unknown here",
    ),
    "a list for a name": (changed(label_names=["a", ["b"], "c"]), "label_names has a list of 1 values for class 1"),
    "a name of a megabyte": (changed(label_names=["a" * 10**6]), "label_names has 1,000,000 characters for class 0"),
    "too many names": (changed(label_names=[0] * (MAX_CLASSES + 1)), "label_names has 1,000,001 names"),
    "an architecture of a megabyte": (changed(architecture="a" * 10**6), "... is not an SE-ResNet of this package"),
    "deep nesting": ('{"architecture": ' + "[" * 1_000_000, "not readable as JSON"),
    "deep nesting of a field": (
        changed(tag=1)[:-1] + ', "x": ' + "[" * 5000 + "]" * 5000 + "}",
        "not readable as JSON",
    ),
    "17 MB": (" " * 17_000_000, "cannot be read (larger than 16 MB)"),
}


@pytest.mark.parametrize("kind", CRAFTED)
def test_crafted_values_are_refused_in_one_line(tmp_path, kind: str) -> None:
    text, reason = CRAFTED[kind]
    with pytest.raises(WeightsError) as raised:
        read(tmp_path, text)
    message = str(raised.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 3 << 20  # KiB, with the tests' imports
    assert reason in message, message
    assert message.isprintable() and len(message) < 300


def test_long_lists_of_equal_names_take_linear_time(tmp_path) -> None:
    """12,000 classes are real (ImageNet-12k); a quadratic search through 200,000 would take minutes."""
    count = 200_000
    ids = [f"n{i}" for i in range(count)]
    text = changed(num_classes=count, label_names=ids, label_descriptions=dict.fromkeys(ids, "crane"))
    config = read(tmp_path, text)
    assert config.labels[:2] == ("crane (n0)", "crane (n1)") and len(set(config.labels)) == count
    assert read(tmp_path, changed(label_names=["same"] * count)).labels == ("same",) * count


def test_a_good_one(tmp_path) -> None:
    args = {"drop_rate": 0.5, "in_chans": 3}
    config = read(tmp_path, changed(tag="mine", label_names=["a", 2, 3.5], model_args=args))
    assert (config.arch, config.tag, config.num_classes, config.labels) == ("seresnet20", "mine", 3, ("a", "2", "3.5"))
    assert config.settings == args
    assert config.preprocess is not None and config.preprocess.input_size == (3, 32, 32)


def test_no_value_changes_after_it_was_read(tmp_path) -> None:
    with pytest.raises(AttributeError):
        read(tmp_path, changed()).arch = "other"  # type: ignore[misc]
