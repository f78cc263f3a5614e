"""From a name to a network: names, files in several conventions, another classifier, other input channels."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import seresnet
from seresnet.errors import ConfigError, WeightsError
from seresnet.models.resnet import SEResNet
from seresnet.models.variants import VARIANTS, build
from seresnet.weights.identify import build_on_meta, shapes_of
from seresnet.weights.index import entries
from seresnet.weights.labels import imagenet_1k
from seresnet.weights.source import released_as, resolve
from tests.models.pairs import difference, make_pair
from tests.timm_import import timm
from tests.weights.nets import equal, logits, small, write_legacy

SMALL = ("legacy_seresnet18", "legacy_seresnext26_32x4d", "seresnet18", "seresnext26t_32x4d", "resnet18")


def cadene(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return timm's legacy state dict as the oldest files have it: linear excitations and no batch counters."""
    linear = {k: v[:, :, 0, 0] if ".se_module." in k and v.ndim == 4 else v for k, v in state.items()}
    return {key: value for key, value in linear.items() if not key.endswith("num_batches_tracked")}


@pytest.mark.parametrize("arch", SMALL)
def test_timms_files_load_with_timms_logits(arch: str, tmp_path) -> None:
    ours, theirs = make_pair(arch)
    expected = logits(theirs)
    torch.save(theirs.state_dict(), tmp_path / "timm.pth")
    save_file(theirs.state_dict(), tmp_path / "timm.safetensors")
    torch.save({"state_dict": ours.state_dict(), "arch": arch}, tmp_path / "ours.pth.tar")
    files = ["timm.pth", "timm.safetensors", "ours.pth.tar"]
    if arch.startswith("legacy"):
        torch.save(cadene(theirs.state_dict()), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
        files.append("old.pth")
    for file in files:
        model = seresnet.create_model(tmp_path / file, pretrained=True)
        assert model.pretrained_cfg["architecture"] == arch
        assert difference(logits(model), expected) <= 1e-5
        assert all(parameter.requires_grad and parameter.is_leaf for parameter in model.parameters())


def test_a_file_as_torch_0_3_wrote_it(tmp_path) -> None:
    """The first releases are such files: no counters, no arguments of later versions, tensors of a GPU."""
    ours, theirs = make_pair("legacy_seresnet18", num_classes=5)
    write_legacy(cadene(theirs.state_dict()), tmp_path / "model.pth", version=1)
    loaded = seresnet.create_model(tmp_path / "model.pth", pretrained=True)
    expected = {k: torch.tensor(0) if k.endswith("num_batches_tracked") else v for k, v in ours.state_dict().items()}
    assert all(torch.equal(value, expected[key]) for key, value in loaded.state_dict().items())


def test_a_loaded_network_is_in_training_mode_as_timms_is() -> None:
    assert seresnet.create_model("seresnet20").training and timm.create_model("resnet18").training


def test_the_file_may_go_once_it_is_loaded(tmp_path) -> None:
    model = small()
    for name in ("seresnet20.safetensors", "seresnet20.pth"):
        path = tmp_path / name
        save_file(model.state_dict(), path) if path.suffix == ".safetensors" else torch.save(model.state_dict(), path)
        loaded = seresnet.create_model(path, pretrained=True)
        path.write_bytes(b"\0" * path.stat().st_size)  # in place, as some copy programs do
        assert equal(loaded, model)
        assert all(value.is_contiguous() for value in loaded.state_dict().values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(tmp_path, dtype: torch.dtype) -> None:
    model = small()
    rounded = {k: v.to(dtype) if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file(rounded, tmp_path / "seresnet20.safetensors")
    loaded = seresnet.create_model(tmp_path / "seresnet20.safetensors", pretrained=True)
    assert {value.dtype for value in loaded.state_dict().values()} == {torch.float32, torch.int64}
    assert all(torch.equal(v.to(dtype), rounded[k]) for k, v in loaded.state_dict().items() if v.is_floating_point())


# Which architecture a file is of


@pytest.mark.parametrize("arch", [a for a, row in VARIANTS.items() if sum(row.layers) <= 16])
def test_a_file_tells_its_architecture_or_that_it_cannot(arch: str, tmp_path, monkeypatch) -> None:
    """Every network that fits is either loaded under its own name or refused as ambiguous; never taken for another."""
    from seresnet.weights.identify import identify

    state = build_on_meta(VARIANTS[arch]).state_dict()
    try:
        assert identify(state, False, tmp_path / "weights.pth") == arch
    except WeightsError as error:
        assert "alike; pass arch=" in str(error) and arch in str(error)
    assert identify(state, False, tmp_path / f"{arch}.pth") == arch
    assert identify(state, False, tmp_path / f"{arch}-best.pth") == arch
    assert identify(state, False, tmp_path / "weights.pth", recorded=arch) == arch


def test_networks_of_equal_shapes_are_not_confused(tmp_path) -> None:
    ours, theirs = make_pair("legacy_seresnet50")
    torch.save(ours.state_dict(), tmp_path / "model.pth")
    with pytest.raises(
        WeightsError, match='those of legacy_seresnet50 and seresnet50 alike; pass arch="legacy_seresnet50"'
    ):
        seresnet.create_model(tmp_path / "model.pth", pretrained=True)
    loaded = seresnet.create_model(tmp_path / "model.pth", pretrained=True, arch="legacy_seresnet50")
    assert equal(loaded, ours)
    torch.save(theirs.state_dict(), tmp_path / "seresnet50.pth")  # the name misleads, the legacy keys do not
    assert seresnet.create_model(tmp_path / "seresnet50.pth", pretrained=True).cfg == VARIANTS["legacy_seresnet50"]


def test_released_files_are_known_by_name() -> None:
    from pathlib import Path

    for entry in entries().values():
        if entry.release_file:
            assert released_as(Path("somewhere") / entry.release_file) == entry
    origin = resolve("somewhere/se_resnet50-ce0d4300.pth")
    assert (origin.arch, origin.sha256, origin.num_classes) == ("legacy_seresnet50", "ce0d4300", 1000)
    assert origin.labels == imagenet_1k()[1] and origin.preprocess == entries()["legacy_seresnet50.in1k"].transform()
    assert released_as(Path("seresnet50.pth")) is None


def test_a_foreign_file(tmp_path) -> None:
    torch.save(nn.Linear(3, 3).state_dict(), tmp_path / "linear.pth")
    with pytest.raises(WeightsError, match=r"its tensors \(weight, bias, \.\.\.\) do not match any SE-ResNet"):
        seresnet.create_model(tmp_path / "linear.pth", pretrained=True)


# Names


def test_unknown_names_suggest_known_ones() -> None:
    with pytest.raises(WeightsError, match=r"'legacy_seresnet51' is not a model, .*did you mean legacy_seresnet50"):
        seresnet.create_model("legacy_seresnet51")
    with pytest.raises(WeightsError, match=r"legacy_seresnet50 has no such weights; there are legacy_seresnet50.in1k"):
        seresnet.create_model("legacy_seresnet50.in22k", pretrained=True)
    with pytest.raises(WeightsError, match="seresnet18: no published weights"):
        seresnet.create_model("seresnet18", pretrained=True)
    with pytest.raises(WeightsError, match="did you mean seresnet50"):
        seresnet.create_model("seresnet20", arch="seresnet50x")
    with pytest.raises(WeightsError) as raised:
        seresnet.create_model("x" * 10_000)
    assert len(str(raised.value)) < 400


def test_settings_are_checked() -> None:
    assert seresnet.create_model("seresnet20", drop_rate=0.3, drop_path_rate=0.1).drop_rate == 0.3
    for wrong, reason in (
        ({"drop_rat": 0.1}, "drop_rat is not a setting of a network; did you mean drop_rate?"),
        ({"num_classes": -1}, "num_classes is -1"),
        ({"in_chans": 0}, "in_chans is 0"),
        ({"channels": [16, -32, 64]}, "no network can be built so"),
        ({"block": "cube"}, "no network can be built so"),
    ):
        with pytest.raises(ConfigError) as raised:
            seresnet.create_model("seresnet20", **wrong)
        assert reason in str(raised.value) and "\n" not in str(raised.value)


def test_new_networks_are_random_and_have_a_transform() -> None:
    one, other = seresnet.create_model("seresnet20"), seresnet.create_model("seresnet20", num_classes=7, in_chans=1)
    assert not torch.equal(one.layer1[0].conv1.weight, other.layer1[0].conv1.weight)
    assert one.preprocess.input_size == (3, 32, 32) and other.preprocess.input_size == (1, 32, 32)
    assert (other.num_classes, other.in_chans, other.labels) == (7, 1, [])
    assert seresnet.create_model("legacy_seresnet18").preprocess.interpolation == "bicubic"


def test_no_weights_are_read_unless_asked_for(tmp_path) -> None:
    model = small(num_classes=4)
    seresnet.save(model, tmp_path / "model")
    for name in (tmp_path / "model", tmp_path / "model" / "model.safetensors"):
        new = seresnet.create_model(name)
        assert new.cfg == model.cfg and not equal(new, model) and new.labels == model.labels
        assert seresnet.create_model(name, num_classes=5).labels == []


# Another classifier, other channels


def test_another_number_of_classes_gets_a_new_classifier(tmp_path, caplog) -> None:
    seresnet.save(model := small(), tmp_path)
    with caplog.at_level(logging.INFO, logger="seresnet"):
        other = seresnet.create_model(tmp_path, pretrained=True, num_classes=3)
    assert "a new classifier of 3 classes in place of 10" in caplog.text
    assert other.num_classes == 3 and logits(other, 32).shape == (2, 3) and other.labels == [] == other.label_ids
    body = {key: value for key, value in model.state_dict().items() if not key.startswith("fc.")}
    assert all(torch.equal(other.state_dict()[key], value) for key, value in body.items())
    same = seresnet.create_model(tmp_path, pretrained=True, num_classes=10)
    assert equal(same, model) and same.labels == model.labels
    none = seresnet.create_model(tmp_path, pretrained=True, num_classes=0)
    assert isinstance(none.fc, nn.Identity) and logits(none, 32).shape == (2, 64)


def without_classifier(model: SEResNet) -> dict[str, torch.Tensor]:
    return {key: value for key, value in model.state_dict().items() if not key.startswith("fc.")}


def test_a_file_without_classifier(tmp_path) -> None:
    save_file(without_classifier(small()), path := tmp_path / "seresnet20.safetensors")
    assert seresnet.create_model(path, pretrained=True, num_classes=5).num_classes == 5
    assert seresnet.create_model(path, pretrained=True, num_classes=0).num_classes == 0
    with pytest.raises(WeightsError, match=r"has no classifier .* pass num_classes=0, or a number for a new one"):
        seresnet.create_model(path, pretrained=True)


def test_a_directory_without_classifier(tmp_path) -> None:
    """Its config.json may still tell the classes, as after cutting the head off a saved model."""
    model = small()
    seresnet.save(model, tmp_path / "whole")
    seresnet.save(model, tmp_path / "cut")
    save_file(without_classifier(model), tmp_path / "cut" / "model.safetensors")
    expected = seresnet.create_model(tmp_path / "whole", pretrained=True, num_classes=0)
    cut = seresnet.create_model(tmp_path / "cut", pretrained=True, num_classes=0)
    assert equal(cut, expected) and cut.preprocess == model.preprocess and cut.labels == []
    assert seresnet.create_model(tmp_path / "cut", pretrained=True, num_classes=4).num_classes == 4
    with pytest.raises(WeightsError, match=r"has no classifier .* pass num_classes=0"):
        seresnet.create_model(tmp_path / "cut", pretrained=True)
    seresnet.save(cut, tmp_path / "headless")
    again = seresnet.create_model(tmp_path / "headless", pretrained=True)
    assert equal(again, expected) and again.num_classes == 0


def test_a_bare_file_says_what_is_guessed(tmp_path, caplog) -> None:
    for classes, guesses in (
        (
            3,
            "preprocessing is not known, so it gets that of seresnet20 (32 x 32, bilinear); its classes have no names",
        ),
        (1000, "(32 x 32, bilinear); its 1,000 classes have no names, so they get those of ImageNet-1k"),
        (1, "(32 x 32, bilinear); its classes have no names; its one output is read as a sigmoid"),
    ):
        caplog.clear()
        torch.save(small(num_classes=classes).state_dict(), path := tmp_path / "seresnet20.pth")
        model = seresnet.create_model(path, pretrained=True)
        assert guesses in caplog.text and len(caplog.records) == 1
        assert model.multi_label == (classes == 1) and len(model.labels) == (1000 if classes == 1000 else 0)


@pytest.mark.parametrize("arch", ["legacy_seresnet18", "seresnext26t_32x4d"])
@pytest.mark.parametrize("in_chans", [1, 2, 4, 7])
def test_other_channels_as_timm_adapts_them(arch: str, in_chans: int, tmp_path) -> None:
    _, theirs = make_pair(arch, num_classes=5)
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    adapted = timm.create_model(
        arch,
        pretrained=True,
        in_chans=in_chans,
        num_classes=5,
        pretrained_cfg_overlay={"file": str(tmp_path / "model.safetensors"), "num_classes": 5},
    )
    ours = seresnet.create_model(tmp_path / "model.safetensors", pretrained=True, in_chans=in_chans)
    assert ours.in_chans == ours.preprocess.input_size[0] == in_chans and ours.num_classes == 5
    assert difference(logits(ours), logits(adapted)) <= 1e-5


def test_grey_weights_for_colour(tmp_path) -> None:
    grey = small(in_chans=1)
    seresnet.save(grey, tmp_path)
    colour = seresnet.create_model(tmp_path, pretrained=True, in_chans=3)
    x = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    assert difference(colour.eval()(x.expand(-1, 3, -1, -1)), grey.eval()(x)) < 1e-5


def test_the_meta_network_draws_nothing_and_has_the_networks_shapes() -> None:
    cfg = replace(VARIANTS["seresnet20"], num_classes=3)
    assert shapes_of(cfg) == {
        key: tuple(value.shape) for key, value in build("seresnet20", num_classes=3).state_dict().items()
    }
    before = torch.get_rng_state()
    assert all(value.device.type == "meta" for value in build_on_meta(cfg).state_dict().values())
    assert torch.equal(torch.get_rng_state(), before)
