"""The model index against timm's own configurations, and the names of ImageNet's classes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest

import seresnet
from seresnet.models.count import count_parameters
from seresnet.models.variants import VARIANTS
from seresnet.weights import index
from seresnet.weights.identify import build_on_meta
from seresnet.weights.index import default_entry, default_transform, entries, list_models
from seresnet.weights.labels import imagenet_1k
from tests.timm_import import timm
from tests.weights.nets import equal, small

RECORD = Path(__file__).parents[2] / "benchmarks" / "2026-11-23-seresnet20-cifar10.md"
NAMED = [name for name, entry in entries().items() if not entry.bundled]
CONTROLS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


@pytest.mark.parametrize("name", NAMED)
def test_what_timm_says_of_the_same_weights(name: str) -> None:
    entry, theirs = entries()[name], timm.get_pretrained_cfg(name)
    facts = {
        key: getattr(theirs, key) for key in ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")
    }
    assert entry.transform() == seresnet.Preprocess.from_timm(facts)
    assert entry.hub in (theirs.hf_hub_id, f"timm/{name}")
    assert (entry.num_classes, entry.license, entry.origin) == (theirs.num_classes, theirs.license, theirs.origin_url)
    assert (entry.original or "") == (theirs.url or "").rsplit("/", 1)[-1]
    assert entry.labels == ("imagenet-1k" if theirs.num_classes == 1000 else None)
    test = {
        "input_size": theirs.test_input_size or theirs.input_size,
        "crop_pct": theirs.test_crop_pct or theirs.crop_pct,
    }
    ours = dict(entry.preprocess) | dict(entry.test or {})
    assert tuple(ours["input_size"]) == test["input_size"] and ours["crop_pct"] == test["crop_pct"]
    if entry.sha256_head:
        assert entry.original.endswith(f"-{entry.sha256_head}.pth")


def test_every_weight_of_timm_for_these_networks_is_named() -> None:
    theirs = [name for name in timm.list_pretrained() if name.partition(".")[0] in VARIANTS]
    assert {name for name in theirs if name.partition(".")[0] not in CONTROLS} <= set(NAMED) <= set(theirs)
    assert all(default_entry(arch) for arch in CONTROLS)


@pytest.mark.parametrize("arch", sorted({entries()[name].arch for name in NAMED}))
def test_a_bare_name_means_the_weights_it_means_in_timm(arch: str) -> None:
    assert default_entry(arch).tag == timm.get_pretrained_cfg(arch).tag


@pytest.mark.parametrize("arch", [arch for arch in VARIANTS if timm.is_model(arch)])
def test_transform_of_a_new_network_is_timms(arch: str) -> None:
    theirs = timm.get_pretrained_cfg(arch).to_dict()
    assert default_transform(arch) == seresnet.Preprocess.from_timm(theirs)


@pytest.mark.parametrize("name", NAMED)
def test_parameters_are_counted(name: str) -> None:
    entry = entries()[name]
    cfg = replace(VARIANTS[entry.arch], num_classes=entry.num_classes)
    assert count_parameters(build_on_meta(cfg)) == entry.params


def test_published_figures_of_the_five() -> None:
    published = {name: entry for name, entry in entries().items() if entry.top5 and not entry.bundled}
    figures = {name: (e.top1, e.top5, e.flops, e.file_size_bytes) for name, e in published.items()}
    assert figures == {
        "legacy_seresnet18.in1k": (71.742, 90.340, 2328876024, 47175663),
        "legacy_seresnet34.in1k": (74.788, 92.134, 4706201004, 87958697),
        "legacy_seresnet50.in1k": (77.650, 93.732, 4974351024, 112611220),
        "legacy_seresnet101.in1k": (78.370, 94.264, 9762614000, 197822624),
        "legacy_seresnet152.in1k": (78.662, 94.370, 14553578160, 268033864),
    }
    assert all(entries()[name].training["epochs"] == 100 for name in figures)
    assert entries()["seresnet50.ra2_in1k"].training is None  # nobody told us


def test_entries_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        entries()["legacy_seresnet18.in1k"].top1 = 100.0


def test_list_models() -> None:
    assert list_models() == list(VARIANTS)
    assert list_models("legacy_seresnet?8") == ["legacy_seresnet18"]
    assert list_models("legacy_seresnet50*", pretrained=True) == ["legacy_seresnet50.in1k"]
    assert list_models("nothing*") == []
    assert seresnet.list_models("legacy_*") == [arch for arch in VARIANTS if arch.startswith("legacy_")]


def test_reading_the_index_imports_no_torch() -> None:
    code = "import sys; from seresnet.weights.index import entries; entries(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_class_names() -> None:
    ids, names = imagenet_1k()
    info = timm.data.ImageNetInfo("imagenet-1k")
    assert list(ids) == info.label_names()
    assert len({name.lower() for name in names}) == 1000
    for number, name in enumerate(names):
        lemmas = info.index_to_description(number)
        assert lemmas.startswith(name.partition(" (")[0]), (name, lemmas)
    assert (names[0], names[134], names[517]) == ("tench", "crane (bird)", "crane (machine)")
    assert names[638] != names[639]


def test_weights_that_ship_with_the_package(tmp_path, monkeypatch) -> None:
    """A directory of the folder ``bundled`` is an entry; it is read as any directory, and needs no network."""
    folder = tmp_path / "bundled"
    seresnet.save(model := small(), folder / "seresnet20.cifar10")
    monkeypatch.setattr(index, "BUNDLED", folder)
    index.entries.cache_clear()
    try:
        entry = entries()["seresnet20.cifar10"]
        assert (entry.arch, entry.tag, entry.num_classes, entry.bundled) == (
            "seresnet20",
            "cifar10",
            10,
            folder / "seresnet20.cifar10",
        )
        assert entry.transform() == model.preprocess
        assert entry.file_size_bytes == (folder / "seresnet20.cifar10" / "model.safetensors").stat().st_size
        for name in ("seresnet20", "seresnet20.cifar10"):
            loaded = seresnet.create_model(name, pretrained=True, offline=True)
            assert equal(loaded, model) and loaded.labels == model.labels
        assert seresnet.create_model("seresnet20").labels == []  # untrained
        assert list_models("seresnet20*", pretrained=True) == ["seresnet20.cifar10"]
    finally:
        index.entries.cache_clear()


def test_what_ships_is_whole() -> None:
    for entry in entries().values():
        if entry.bundled:
            model = seresnet.create_model(entry.name, pretrained=True, offline=True)
            assert len(model.labels) == model.num_classes == entry.num_classes


def test_bundled_figures_are_those_that_were_measured() -> None:
    entry = entries()["seresnet20.cifar10"]
    measured = json.loads((entry.bundled / "config.json").read_text())["measured"]
    assert (entry.top1, entry.top5) == (measured["top1"], measured["top5"])
    assert f"**{entry.top1:.2f} % top-1**" in RECORD.read_text()
