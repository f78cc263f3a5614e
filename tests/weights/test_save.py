"""Saved directories, ours in timm and timm's here, with equal logits, class names and preprocessing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import seresnet
from seresnet.errors import WeightsError
from seresnet.models.resnet import SEResNet
from seresnet.models.variants import VARIANTS
from seresnet.weights.labels import imagenet_1k
from seresnet.weights.save import architecture_of
from tests.models.pairs import difference, make_pair
from tests.networks import TINY
from tests.timm_import import timm
from tests.weights.nets import equal, logits, small

save_for_hf = timm.models.save_for_hf
SMALL = ("legacy_seresnet18", "legacy_seresnet50", "seresnet18", "seresnext26d_32x4d", "resnet18")


def in_timm(directory: Path, **arguments: object) -> torch.nn.Module:
    return timm.create_model(f"local-dir:{directory}", pretrained=True, **arguments)


@pytest.mark.parametrize("arch", SMALL)
def test_ours_in_timm_and_timms_here(arch: str, tmp_path) -> None:
    ours, theirs = make_pair(arch, num_classes=4)
    expected = logits(theirs)
    ours.labels = ["ant", "bee", "cat", "dog"]
    ours.preprocess = seresnet.Preprocess((3, 96, 128), "bicubic", 0.9, "squash", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    seresnet.save(ours, tmp_path / "ours")
    loaded = in_timm(tmp_path / "ours")
    assert difference(logits(loaded), expected) <= 1e-5
    assert seresnet.Preprocess.from_timm(loaded.pretrained_cfg) == ours.preprocess
    assert loaded.pretrained_cfg["label_names"] == ours.labels
    assert {k: v.shape for k, v in loaded.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}

    names = {"label_names": ours.labels}
    save_for_hf(loaded, tmp_path / "theirs", model_config=names, safe_serialization=True)
    back = seresnet.create_model(tmp_path / "theirs", pretrained=True)
    assert equal(back, ours) and back.labels == ours.labels and back.preprocess == ours.preprocess
    save_for_hf(loaded, tmp_path / "pickled", safe_serialization=False)
    assert (tmp_path / "pickled" / "pytorch_model.bin").exists()
    assert equal(seresnet.create_model(tmp_path / "pickled", pretrained=True), ours)


def test_deep_stem_of_senet_and_timms_own_reload(tmp_path) -> None:
    """A short SENet-154, so that the keys of its deep stem go through both programs."""
    from dataclasses import replace

    from seresnet.weights.convert import normalized, to_legacy

    short = SEResNet(replace(VARIANTS["legacy_senet154"], layers=(1, 1, 1, 1))).eval()
    theirs = timm.models.senet.SENet(
        timm.models.senet.SEBottleneck,
        (1, 1, 1, 1),
        groups=64,
        reduction=16,
        downsample_kernel_size=3,
        downsample_padding=1,
        inplanes=128,
        input_3x3=True,
    ).eval()
    theirs.load_state_dict(to_legacy(short.state_dict()))
    assert difference(logits(theirs), logits(short)) <= 1e-5
    short.load_state_dict(normalized(theirs.state_dict()))


@pytest.mark.parametrize("arch", ["legacy_seresnet18", "seresnet18"])
@pytest.mark.parametrize("in_chans", [1, 4])
def test_other_channels_in_timm(arch: str, in_chans: int, tmp_path) -> None:
    ours, theirs = make_pair(arch, num_classes=4, in_chans=in_chans)
    seresnet.save(ours, tmp_path / "ours")
    assert difference(logits(in_timm(tmp_path / "ours")), logits(theirs)) <= 1e-5
    save_for_hf(in_timm(tmp_path / "ours"), tmp_path / "theirs", safe_serialization=True)
    back = seresnet.create_model(tmp_path / "theirs", pretrained=True)
    assert equal(back, ours) and back.in_chans == in_chans == back.preprocess.input_size[0]


def test_dropout_settings_travel(tmp_path) -> None:
    model = seresnet.create_model("seresnet18", num_classes=3, drop_rate=0.25, drop_path_rate=0.125)
    seresnet.save(model, tmp_path)
    for loaded in (seresnet.create_model(tmp_path, pretrained=True), in_timm(tmp_path)):
        assert loaded.drop_rate == 0.25
        assert 0.125 in {getattr(m, "rate", getattr(m, "drop_prob", None)) for m in loaded.modules()}
    assert seresnet.create_model(tmp_path, pretrained=True).cfg == model.cfg
    assert seresnet.create_model(tmp_path, pretrained=True, drop_rate=0.0).drop_rate == 0.0
    legacy = seresnet.create_model("legacy_seresnet18", num_classes=3, drop_rate=0.0, drop_path_rate=0.1)
    seresnet.save(legacy, tmp_path)
    assert in_timm(tmp_path).drop_rate == 0.0


def test_imagenet_names_go_by_id(tmp_path) -> None:
    model = seresnet.create_model("legacy_seresnet18")
    ids, names = imagenet_1k()
    model.labels, model.label_ids = list(names), list(ids)
    seresnet.save(model, tmp_path)
    back = seresnet.create_model(tmp_path, pretrained=True)
    assert (back.labels, back.label_ids) == (list(names), list(ids))
    theirs = in_timm(tmp_path)
    assert theirs.pretrained_cfg["label_names"] == list(ids)
    assert theirs.pretrained_cfg["label_descriptions"]["n01440764"] == "tench"


def test_timms_directories_of_named_weights_need_no_names(tmp_path) -> None:
    """timm leaves ImageNet's names out of its directories; the tag tells that they are meant."""
    theirs = timm.create_model("legacy_seresnet18")
    assert theirs.pretrained_cfg["tag"] == "in1k"
    save_for_hf(theirs, tmp_path / "imagenet", safe_serialization=True)
    loaded = seresnet.create_model(tmp_path / "imagenet", pretrained=True)
    assert loaded.labels == list(imagenet_1k()[1]) and loaded.preprocess.interpolation == "bicubic"
    save_for_hf(timm.create_model("legacy_seresnet18", num_classes=7), tmp_path / "seven", safe_serialization=True)
    assert seresnet.create_model(tmp_path / "seven", pretrained=True).labels == []


def test_a_thousand_classes_without_names_get_those_of_imagenet_and_it_is_said(tmp_path, caplog) -> None:
    model = seresnet.create_model("seresnet20", num_classes=1000)
    seresnet.save(model, tmp_path / "mine")
    loaded = seresnet.create_model(tmp_path / "mine", pretrained=True)
    assert loaded.labels == list(imagenet_1k()[1]) and loaded.label_ids == list(imagenet_1k()[0])
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert caplog.text.rstrip().endswith("mine: its 1,000 classes have no names, so they get those of ImageNet-1k")
    caplog.clear()
    assert seresnet.create_model(tmp_path / "mine", pretrained=True, num_classes=1001).labels == []
    assert "ImageNet" not in caplog.text


def test_round_trip_of_a_network_that_timm_has_not(tmp_path) -> None:
    for arch in ("seresnet20", "resnet20"):
        model = seresnet.create_model(arch, num_classes=3, in_chans=1)
        model.labels = ["a", "b", 'naïve, "c"\n']
        seresnet.save(model, tmp_path)
        back = seresnet.create_model(tmp_path, pretrained=True)
        assert equal(back, model) and back.labels == model.labels and back.cfg == model.cfg
        assert back.preprocess == model.preprocess
    seresnet.save(back, tmp_path / "again")
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / file).read_bytes() == (tmp_path / "again" / file).read_bytes()


def test_without_classifier_or_pooling(tmp_path) -> None:
    model = small()
    model.reset_classifier(0, "")
    seresnet.save(model, tmp_path)
    back = seresnet.create_model(tmp_path, pretrained=True)
    assert (back.num_classes, back.global_pool.pool_type) == (0, "") and logits(back, 32).shape == (2, 64, 8, 8)


def test_float16(tmp_path) -> None:
    model = small()
    seresnet.save(model, tmp_path / "half", dtype=torch.float16)
    seresnet.save(model, tmp_path / "full")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("half", "full")]
    assert sizes[0] < 0.55 * sizes[1]
    with safe_open(tmp_path / "half" / "model.safetensors", "pt") as file:
        assert file.get_tensor("fc.weight").dtype == torch.float16
    back = seresnet.create_model(tmp_path / "half", pretrained=True)
    assert back.fc.weight.dtype == torch.float32
    assert torch.equal(back.fc.weight, model.fc.weight.half().float())
    model.bn1.running_var[0] = 1e6
    with pytest.raises(
        WeightsError, match=r"not saved: bn1\.running_var .* take float32 if torch\.float16 is too narrow"
    ):
        seresnet.save(model, tmp_path / "half", dtype=torch.float16)
    assert equal(seresnet.create_model(tmp_path / "half", pretrained=True), back)


def test_what_is_not_saved(tmp_path) -> None:
    model = small()
    model.fc.bias.data[0] = float("nan")
    with pytest.raises(WeightsError, match=r"not saved: fc\.bias \(1 in all\) hold NaN or infinity"):
        seresnet.save(model, tmp_path / "model")
    with pytest.raises(WeightsError, match="none of the named architectures"):
        seresnet.save(SEResNet(TINY), tmp_path / "model")
    pruned = small()
    pruned.prune_intermediate_layers([1])
    with pytest.raises(WeightsError, match="save it whole, and prune it after loading"):
        seresnet.save(pruned, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_every_architecture_is_recognised() -> None:
    from seresnet.weights.identify import build_on_meta

    for arch, row in VARIANTS.items():
        assert architecture_of(build_on_meta(row)) == arch


def test_views_are_saved_whole(tmp_path) -> None:
    """Channels-last weights, and weights that share memory with others, come back as they were."""
    model = small()
    expected = {key: value.clone() for key, value in model.state_dict().items()}
    model.to(memory_format=torch.channels_last)
    model.bn1.bias.data = model.bn1.weight.data  # one memory under two names
    expected["bn1.bias"] = expected["bn1.weight"]
    seresnet.save(model, tmp_path)
    back = seresnet.create_model(tmp_path, pretrained=True).state_dict()
    assert all(torch.equal(back[key], value) for key, value in expected.items())


def test_an_interrupted_save_leaves_the_old_directory(tmp_path, monkeypatch) -> None:
    old, new = small(), small()
    new.fc.bias.data += 1
    seresnet.save(old, tmp_path)
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="no space left on the disk; free some"):
        seresnet.save(new, tmp_path)
    monkeypatch.undo()
    assert equal(seresnet.create_model(tmp_path, pretrained=True), old)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_configuration_is_plain_json_of_timms_keys(tmp_path) -> None:
    seresnet.save(small(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    known = set(timm.models.PretrainedCfg.__dataclass_fields__)
    assert set(config["pretrained_cfg"]) <= known
    assert (config["architecture"], config["num_classes"], config["num_features"]) == ("seresnet20", 10, 64)


def test_several_labels_an_image_travel_with_the_weights_and_do_not_bother_timm(tmp_path) -> None:
    ours, _ = make_pair("seresnet18", num_classes=3)
    ours.multi_label = True
    seresnet.save(ours, tmp_path)
    assert seresnet.create_model(str(tmp_path), pretrained=True).multi_label
    assert not seresnet.create_model(str(tmp_path), pretrained=True, num_classes=2).multi_label
    assert difference(logits(in_timm(tmp_path)), logits(ours)) <= 1e-5
    ours.multi_label = False
    seresnet.save(ours, tmp_path)
    assert not seresnet.create_model(str(tmp_path), pretrained=True).multi_label
