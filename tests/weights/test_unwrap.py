"""The network's tensors in a checkpoint, however training scripts wrap them, and what lies beside them."""

from __future__ import annotations

import argparse
import datetime
import logging
import pathlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import seresnet
from seresnet.errors import WeightsError
from seresnet.weights.unwrap import StateDict, find_state_dict, named_architecture
from tests.weights.nets import equal, small

ONES = torch.ones(3)


def state(value: float = 1.0) -> dict[str, Tensor]:
    """Return three tensors that mark a network: its first block and its classifier."""
    return {
        "layer1.0.conv1.weight": torch.full((2, 2), value),
        "fc.weight": torch.full((2, 2), value),
        "fc.bias": torch.full((2,), value),
    }


def prefixed(prefix: str, value: float = 1.0) -> dict[str, Tensor]:
    return {prefix + key: tensor for key, tensor in state(value).items()}


def find(checkpoint: object, tmp_path: Path) -> StateDict:
    path = tmp_path / "file.pth"
    path.write_bytes(bytes(10_000))  # its size bounds that of the tensors
    return find_state_dict(checkpoint, path)


WRAPPED = {
    "bare": state(),
    "data parallel": prefixed("module."),
    "compiled": prefixed("_orig_mod."),
    "both": prefixed("module._orig_mod."),
    "compiled stage": {key.replace("layer1.", "layer1._orig_mod."): value for key, value in state().items()},
    "timm": {"state_dict": state(), "epoch": 3, "optimizer": {"state": {0: {"step": ONES}}, "param_groups": []}},
    "torchvision": {"model": prefixed("module."), "args": None},
    "nested": {"model": {"state_dict": state()}},
    "tutorial": {"epoch": 3, "model_state_dict": state(), "optimizer_state_dict": {}, "loss": torch.tensor(0.25)},
    "net": {"state_dict": prefixed("net.")},
    "encoder": {"state_dict": prefixed("encoder.")},
    "two levels": {"checkpoint": {"weights": prefixed("student.backbone.")}},
    "basicsr": {"params_ema": state(), "params": state(2.0)},
    "no wrapper known": {"my_best_thing": state(), "step": 7},
    "in a list": [state(), {"step": 3}],
    "in a tuple": (7, state()),
    "timm's average": {"state_dict": state(2.0), "state_dict_ema": state()},
    "torchvision's average": {"model_ema": prefixed("module."), "model": state(2.0)},
    "no average": {"state_dict": state(), "state_dict_ema": None},
    "AveragedModel": {"n_averaged": torch.tensor(7), **prefixed("module.")},
    "average as a submodule": {"state_dict": {**prefixed("model.", 2.0), **prefixed("ema_model.module.")}},
    "the same twice": dict.fromkeys(("first", "second"), state()),
    "several, one known": {"best": state(2.0), "state_dict": state()},
    "average of parameters alone": {
        "model": {**state(), "bn1.running_var": ONES},
        "ema": {"shadow": {key: value + 1 for key, value in state().items()}},
    },
    "loss": {"state_dict": {**prefixed("model."), "criterion.weight": ONES}},
    "thop": {**state(), "total_ops": ONES[:1], "layer1.0.total_ops": ONES[:1], "layer1.0.total_params": ONES[:1]},
    "sequential head": {**state(), "fc.0.weight": state()["fc.weight"], "fc.0.bias": state()["fc.bias"]},
}
del WRAPPED["sequential head"]["fc.weight"], WRAPPED["sequential head"]["fc.bias"]


@pytest.mark.parametrize("checkpoint", WRAPPED.values(), ids=WRAPPED)
def test_wrappers_and_prefixes_come_off(checkpoint: object, tmp_path) -> None:
    tensors = dict(find(checkpoint, tmp_path).tensors)
    tensors.pop("bn1.running_var", None)
    assert tensors.keys() == state().keys() and all(bool((value == 1).all()) for value in tensors.values())


@pytest.mark.parametrize(
    ("checkpoint", "note"),
    [
        (WRAPPED["timm"], None),
        (WRAPPED["data parallel"], None),
        (WRAPPED["the same twice"], None),
        (WRAPPED["timm's average"], "of the networks in it (state_dict, state_dict_ema) the averaged one is used"),
        (WRAPPED["several, one known"], "this one is used: state_dict"),
        (WRAPPED["average of parameters alone"], "ignored averaged weights that are incomplete"),
        (WRAPPED["loss"], "ignored 1 tensor beside the network (criterion.weight)"),
        (
            WRAPPED["thop"],
            "ignored 3 tensors beside the network (total_ops, layer1.0.total_ops, layer1.0.total_params)",
        ),
        (WRAPPED["sequential head"], "its classifier is the linear layer fc.0"),
        (
            {"state_dict": state(), "ema": {"decay": 0.99, "shadow_params": [ONES] * 20}},
            "ignored averaged weights without names (ema.shadow_params)",
        ),
    ],
)
def test_a_choice_is_noted(checkpoint: object, note: str | None, tmp_path) -> None:
    notes = find(checkpoint, tmp_path).notes
    assert (notes == ()) if note is None else (note in "; ".join(notes))


def test_several_networks_are_refused(tmp_path) -> None:
    with pytest.raises(WeightsError, match=r"holds several networks \(encoder_q, encoder_k\); save the state_dict\(\)"):
        find({**prefixed("encoder_q."), **prefixed("encoder_k.", 2.0)}, tmp_path)
    with pytest.raises(WeightsError, match=r"several networks \(generator, discriminator\)"):
        find({"generator": state(), "discriminator": state(2.0)}, tmp_path)


def test_what_holds_no_state_dict(tmp_path) -> None:
    endless: dict[str, object] = {}
    endless["model"] = endless
    for thing in (None, 3, [], {}, {"epoch": 3}, {"state_dict": {}}, torch.zeros(2), endless, [endless] * 3):
        with pytest.raises(WeightsError, match="holds no state dict"):
            find(thing, tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("layer1.0." + "x" * 3_000_000, ONES, "is not a name that a tensor can have"),
        ("layer1.0.\x1b[31mred", ONES, "is not a name that a tensor can have"),
        ("fc.weight", torch.zeros(1).expand(10**6, 64), "fc.weight has more elements than the file holds for it"),
        ("fc.weight", torch.zeros(4, 4, dtype=torch.float8_e5m2), "not a plain tensor of numbers (torch.float8_e5m2)"),
        ("fc.weight", torch.zeros(10_000), "more elements than the file holds"),
    ],
    ids=["long", "control characters", "expanded", "eight bits", "more than the file"],
)
def test_tensors_and_names_that_no_network_has(key: str, value: Tensor, reason: str, tmp_path) -> None:
    with pytest.raises(WeightsError) as raised:
        find({**state(), key: value}, tmp_path)
    message = str(raised.value)
    assert reason in message and message.isprintable() and len(message) < 400


def test_the_architecture_that_a_checkpoint_names() -> None:
    assert named_architecture({"arch": "seresnet50.ra2_in1k", "state_dict": {}}) == "seresnet50"
    assert named_architecture({"hyper_parameters": {"model_name": "legacy_seresnet50"}}) == "legacy_seresnet50"
    for nothing in ({"state_dict": {}}, {"arch": 3}, {"arch": "vit_base"}, {"model": state()}, None):
        assert named_architecture(nothing) is None


# Whole files


@pytest.mark.parametrize("as_zip", [True, False])
def test_objects_beside_the_weights_do_no_harm(as_zip: bool, tmp_path, caplog) -> None:
    """NumPy's scalars and arrays, paths, dates and options are common beside weights; none of them is made."""
    model = small()
    beside = {
        "loss": np.float64(0.25),
        "top1": np.float32(76.7),
        "seed": np.int64(3),
        "history": np.linspace(0, 1, 50),
        "rng": np.random.default_rng(0).bit_generator.state["state"],
        "numpy_rng": np.random.RandomState(0).get_state(),
        "args": argparse.Namespace(lr=0.1, data=pathlib.PurePosixPath("data") and pathlib.Path("data"), tag=None),
        "when": datetime.datetime(2020, 1, 1),
        "dtype": np.dtype("float32"),
    }
    path = tmp_path / "seresnet20.pth"
    torch.save({"model_state_dict": model.state_dict(), **beside}, path, _use_new_zipfile_serialization=as_zip)
    with caplog.at_level(logging.WARNING, logger="seresnet"):
        assert equal(seresnet.create_model(path, pretrained=True), model)
    assert "its preprocessing is not known, so it gets that of seresnet20 (32 x 32, bilinear)" in caplog.text
    assert len(caplog.records) == 1
