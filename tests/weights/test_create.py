"""`create_model` with timm's arguments: each does what it does in timm, or is refused with the reason."""

import hashlib
import io
from pathlib import Path

import pytest
import torch

import seresnet
from seresnet.errors import ArgumentError, ConfigError, WeightsError
from seresnet.models.features import FeatureNet
from seresnet.weights.index import Entry, entries
from seresnet.weights.timm_arguments import OTHER_NETWORK
from tests.timm_import import timm

ARCHS = ["legacy_seresnet18", "legacy_senet154", "seresnet50", "seresnet18", "seresnet200d", "seresnetaa50d"]


def on_meta(name: str, **arguments: object):
    return seresnet.create_model(name, device="meta", **arguments)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = seresnet.create_model("resnet20", num_classes=4)
    torch.save(model.state_dict(), tmp_path / "four.pth")
    return tmp_path / "four.pth"


@pytest.mark.parametrize("name", [*ARCHS, "seresnet50.a3_in1k"])
def test_default_cfg_has_timms_keys_values_and_types(name: str) -> None:
    ours, theirs = on_meta(name).default_cfg, timm.create_model(name, device="meta").default_cfg
    names = {"layer0.conv1": ("conv1", "conv1.0"), "last_linear": ("fc",)}  # legacy layers have other names here
    for key, value in theirs.items():
        if key in ("first_conv", "classifier"):
            assert ours[key] in names.get(value, (value,))
            assert any(k.startswith(ours[key] + ".") for k in on_meta(name).state_dict())
        elif key != "url":  # the Hub comes first where a weight has both
            assert ours[key] == value and type(ours[key]) is type(value), key
    assert timm.data.resolve_data_config(ours) == timm.data.resolve_data_config(theirs)


def test_device_and_dtype() -> None:
    model = on_meta("seresnet18", dtype=torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.bfloat16)}
    assert seresnet.create_model("seresnet20", dtype=torch.float64).fc.weight.dtype == torch.float64


def test_features_only() -> None:
    model = on_meta("seresnet18", features_only=True, out_indices=(1, 3))
    assert isinstance(model, FeatureNet) and model.feature_info.channels() == [64, 256]


def test_settings_of_the_network() -> None:
    assert on_meta("seresnet18", global_pool="catavgmax").fc.in_features == 1024
    assert on_meta("seresnet18", output_stride=8).feature_info[-1]["reduction"] == 8
    assert seresnet.create_model("seresnet20", zero_init_last=False).layer1[0].bn2.weight.min() == 1


def test_arguments_that_change_nothing_are_accepted() -> None:
    same = {"scriptable": True, "exportable": True, "act_layer": None, "drop_block_rate": 0.0, "bn_eps": None}
    assert on_meta("seresnet18", **same).cfg == on_meta("seresnet18").cfg


@pytest.mark.parametrize("argument", [{"act_layer": "silu"}, {"norm_layer": "groupnorm"}, {"drop_block_rate": 0.1}])
def test_what_makes_another_network_is_refused(argument: dict[str, object]) -> None:
    with pytest.raises(ArgumentError, match="makes another network"):
        on_meta("seresnet18", **argument)


def test_unknown_arguments_are_type_errors_as_in_timm() -> None:
    for kind in (TypeError, ConfigError):
        with pytest.raises(kind, match="did you mean drop_rate"):
            on_meta("seresnet18", drop_rates=0.1)
    with pytest.raises(ConfigError, match="output_stride"):
        on_meta("legacy_seresnet18", output_stride=8)


def test_checkpoint_path(checkpoint: Path) -> None:
    expected = torch.load(checkpoint, weights_only=True)
    model = seresnet.create_model("resnet20", checkpoint_path=checkpoint, num_classes=4)
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
    with pytest.raises(WeightsError, match="has 4 classes, not 3"):
        seresnet.create_model("resnet20", checkpoint_path=checkpoint, num_classes=3)


def test_pretrained_cfg_overlay(checkpoint: Path) -> None:
    overlay = {"file": str(checkpoint), "num_classes": 4, "mean": (0.5, 0.5, 0.5), "label_names": ["a", "b", "c", "d"]}
    model = seresnet.create_model("resnet20", pretrained=True, pretrained_cfg_overlay=overlay)
    assert torch.equal(model.fc.weight, torch.load(checkpoint, weights_only=True)["fc.weight"])
    assert (model.labels, model.preprocess.mean) == (["a", "b", "c", "d"], (0.5, 0.5, 0.5))
    assert on_meta("seresnet50", pretrained_cfg="a3_in1k").default_cfg["tag"] == "a3_in1k"
    with pytest.raises(WeightsError, match="pass it as 'file'"):
        on_meta("resnet20", pretrained=True, pretrained_cfg_overlay={"url": "https://example.com/x.pth"})


def test_local_dir(tmp_path: Path) -> None:
    saved = seresnet.create_model("seresnet20", num_classes=3, global_pool="max")
    seresnet.save(saved, tmp_path)
    loaded = seresnet.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert torch.equal(loaded.fc.weight, saved.fc.weight) and loaded.global_pool.pool_type == "max"


def test_cache_dir_is_where_weights_are_downloaded_to(server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked, in place of the environment's folder, and filled; the next time nothing is downloaded."""
    content = io.BytesIO()
    weights = seresnet.create_model("resnet20", num_classes=10).state_dict()
    torch.save(weights, content)
    digest = hashlib.sha256(content.getvalue()).hexdigest()[:8]
    server.files["/net.pth"] = content.getvalue()
    entry = Entry("resnet20.test", url=f"{server.url}/net.pth", sha256_head=digest, num_classes=10)
    monkeypatch.setitem(entries(), "resnet20.test", entry)
    chosen = tmp_path / "chosen"
    for _ in range(2):
        model = seresnet.create_model("resnet20.test", pretrained=True, cache_dir=chosen)
        assert torch.equal(model.fc.weight, weights["fc.weight"])
    assert [file.name for file in chosen.rglob("*.pth")] == ["net.pth"] and not (tmp_path / "seresnet").exists()
    assert sum(path == "/net.pth" for _, path, *_ in server.requests) == 1


@pytest.mark.parametrize("argument", list(OTHER_NETWORK))
def test_every_argument_that_makes_another_network_says_so(argument: str) -> None:
    for same in (None, *OTHER_NETWORK[argument]):  # timm's defaults
        on_meta("seresnet18", **{argument: same})
    with pytest.raises(ArgumentError, match=f"{argument}='other' makes another network than the named one"):
        on_meta("seresnet18", **{argument: "other"})


def test_registered_networks_do_not_hide_timms() -> None:
    names = seresnet.register_with_timm()
    assert names == seresnet.register_with_timm() and "seresnet_legacy_seresnet50" in names
    model = timm.create_model("seresnet_seresnet18", num_classes=7, drop_rate=0.1)
    assert (type(model).__name__, model.num_classes, model.drop_rate) == ("SEResNet", 7, 0.1)
    assert type(timm.create_model("seresnet18", device="meta")).__name__ == "ResNet"


@pytest.mark.parametrize("name", ["legacy_seresnet50", "legacy_senet154", "seresnet50.a3_in1k", "seresnet18"])
def test_timms_scripts_know_the_transform_of_a_registered_network(name: str) -> None:
    """They ask timm's registry, and pass what it says to `create_model` as ``pretrained_cfg``."""
    seresnet.register_with_timm()
    found = []
    for registered in (f"seresnet_{name}", name):
        arguments = timm.models.resolve_model_input_args(registered, {"img_size": 96}, num_classes=7)
        model = timm.create_model(**arguments, device="meta")
        found.append((timm.data.resolve_data_config(model=model, args={"img_size": 96}), model.num_classes))
    assert found[0] == found[1]
    assert on_meta(name).preprocess == model_preprocess(f"seresnet_{name}")


def model_preprocess(registered: str) -> object:
    """Return our transform of a network that timm's scripts create."""
    return timm.create_model(**timm.models.resolve_model_input_args(registered, {}), device="meta").preprocess
