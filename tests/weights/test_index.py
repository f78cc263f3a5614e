"""The model index against timm's own configurations, and the names of ImageNet's classes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import FrozenInstanceError, astuple, replace
from functools import cache
from pathlib import Path

import pytest
import yaml
from torch.hub import HASH_REGEX

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
INDEX = Path(index.__file__).with_name("index.yaml")
NAMED = [name for name, entry in entries().items() if not entry.bundled]


@cache
def raw_document() -> dict:
    """Return index.yaml, read here and not by the package."""
    return yaml.safe_load(INDEX.read_text())


def raw_entry(name: str) -> dict:
    document = raw_document()
    defaults, given = document["defaults"], document["weights"][name]
    return {**defaults, **given, "preprocess": {**defaults["preprocess"], **given.get("preprocess", {})}}


@pytest.mark.parametrize("name", NAMED)
def test_every_entry_equals_timms_configuration(name: str) -> None:
    ours, theirs = raw_entry(name), timm.get_pretrained_cfg(name)
    hub = f"timm/{name}" if theirs.hf_hub_id == "timm/" else theirs.hf_hub_id
    assert (ours.get("hub"), ours.get("url")) == (hub or None, theirs.url or None)
    assert ours["preprocess"] == {
        "input_size": list(theirs.input_size),
        "crop_pct": theirs.crop_pct,
        "interpolation": theirs.interpolation,
        "mean": list(theirs.mean),
        "std": list(theirs.std),
    }
    assert (theirs.crop_mode, theirs.test_input_size is None) == ("center", "test" not in ours)
    if theirs.test_input_size:
        size, crop_pct = ours["test"]
        assert ((3, size, size), crop_pct) == (theirs.test_input_size, theirs.test_crop_pct or theirs.crop_pct)
    assert ours.get("num_classes", 1000) == theirs.num_classes
    assert ours["labels"] == ("imagenet-1k" if theirs.num_classes == 1000 else None)
    assert ours["license"] == theirs.license
    if theirs.origin_url or not name.startswith("legacy_"):  # timm does not say whose release the legacy ones are
        assert ours.get("origin") == theirs.origin_url
    papers = (theirs.paper_ids or "").replace("arXiv:", "arXiv ")
    assert ", ".join(ours.get("papers", ())) == papers


@pytest.mark.parametrize("name", NAMED)
def test_an_entry_is_read_as_it_is_written(name: str) -> None:
    entry, written = entries()[name], raw_entry(name)
    assert (entry.hub, entry.url, entry.num_classes) == (
        written.get("hub"),
        written.get("url"),
        written.get("num_classes", 1000),
    )
    assert entry.transform() == seresnet.Preprocess.from_timm(written["preprocess"])
    assert list(entry.test or ()) == written.get("test", [])
    assert [list(astuple(row)) for row in entry.results] == written.get("results", [])


def test_only_the_nine_legacy_networks_have_no_repository_on_the_hub() -> None:
    """timm 1.0.31 gives their release files instead (timm/models/senet.py)."""
    assert {name for name in NAMED if entries()[name].hub is None} == {n for n in NAMED if n.startswith("legacy_")}
    assert sum(entries()[name].hub is None for name in NAMED) == 9


@pytest.mark.parametrize("name", [name for name in NAMED if entries()[name].release_file])
def test_the_hash_head_is_the_one_in_the_file_name(name: str) -> None:
    """The rule of torch.hub for release files, which torch.hub.load_state_dict_from_url(check_hash=True) checks."""
    entry = entries()[name]
    assert HASH_REGEX.search(entry.release_file)[1] == entry.sha256_head
    assert all(url.endswith(f"/{entry.release_file}") for url in entry.mirrors)


def test_every_weight_of_timm_for_these_networks_is_named() -> None:
    assert set(NAMED) == {name for name in timm.list_pretrained() if name.partition(".")[0] in VARIANTS}


@pytest.mark.parametrize("name", [name for name in NAMED if entries()[name].results])
def test_the_default_accuracy_is_at_the_weights_own_size_and_crop(name: str) -> None:
    entry, theirs = entries()[name], timm.get_pretrained_cfg(name)
    first, *others = entry.results
    assert (first.size, first.crop_pct) == (theirs.input_size[-1], theirs.crop_pct)
    tested = (theirs.test_input_size[-1], theirs.test_crop_pct or theirs.crop_pct) if theirs.test_input_size else None
    assert [(row.size, row.crop_pct) for row in others] == ([tested] if tested else [])
    assert (entry.top1, entry.top5) == (first.top1, first.top5)
    assert all(50 < row.top1 < row.top5 < 100 for row in entry.results)


def test_accuracy_by_size() -> None:
    """From timm's results table: seresnet50.a3_in1k was trained at 160 pixels and tested at 224 too."""
    rows = [astuple(row) for row in entries()["seresnet50.a3_in1k"].results]
    assert rows == [(160, 0.95, 75.104, 92.096), (224, 0.95, 77.036, 93.072)]
    assert [name for name in NAMED if not entries()[name].results] == [
        "seresnextaa101d_32x8d.sw_in12k",
        "seresnextaa201d_32x8d.sw_in12k",
        "resnet50.bamboo",
    ]  # 12,000 classes, or none: no row in the table of ImageNet-1k


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
    published = {name: entry for name, entry in entries().items() if entry.flops}
    figures = {name: (e.top1, e.top5, e.flops, e.file_size_bytes) for name, e in published.items()}
    assert figures == {
        "legacy_seresnet18.in1k": (71.742, 90.340, 2328876024, 47175663),
        "legacy_seresnet34.in1k": (74.788, 92.134, 4706201004, 87958697),
        "legacy_seresnet50.in1k": (77.650, 93.732, 4974351024, 112611220),
        "legacy_seresnet101.in1k": (78.370, 94.264, 9762614000, 197822624),
        "legacy_seresnet152.in1k": (78.662, 94.370, 14553578160, 268033864),
    }
    assert all(entries()[name].training[0]["epochs"] == 100 for name in figures)
    assert entries()["seresnet50.ra2_in1k"].training == ()  # not published


def test_whose_release_a_legacy_weight_is() -> None:
    """The authors' README lists SE-ResNet-50, 101, 152, two SE-ResNeXts and SENet-154; the others are timm's own."""
    legacy = {name: entry for name, entry in entries().items() if name.startswith("legacy_")}
    authors = {name for name, entry in legacy.items() if "hujie-frank" in entry.origin}
    depths = {f"legacy_seresnet{depth}.in1k" for depth in (50, 101, 152)}
    assert authors == depths | {f"legacy_{n}.in1k" for n in ("seresnext50_32x4d", "seresnext101_32x4d", "senet154")}
    for name, entry in legacy.items():
        sources = [settings["source"] for settings in entry.training]
        assert any("authors'" in source for source in sources) == (name in authors - {"legacy_senet154.in1k"})
        assert any(source.startswith("timm") for source in sources) == (name not in authors)


def test_entries_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        entries()["legacy_seresnet18.in1k"].results = ()


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


def clear_caches() -> None:
    index.entries.cache_clear()
    index._bundled.cache_clear()


def test_weights_that_ship_with_the_package(tmp_path, monkeypatch) -> None:
    """A directory of the folder ``bundled`` is an entry; it is read as any directory, and needs no network."""
    folder = tmp_path / "bundled"
    seresnet.save(model := small(), folder / "seresnet20.cifar10")
    monkeypatch.setattr(index, "BUNDLED", folder)
    clear_caches()
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
        clear_caches()


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


def test_the_tables_of_the_manual_are_those_of_the_index() -> None:
    text = (INDEX.parents[2] / "docs" / "weights.md").read_text()
    accuracy = text.partition("## Published accuracy of every weight")[2]
    expected = [
        f"| `{name}` | {row.size} | {row.crop_pct:g} | {row.top1:.3f} | {row.top5:.3f} |"
        for name in NAMED
        for row in entries()[name].results
    ]
    assert [line for line in accuracy.splitlines() if line.startswith("| `")] == expected
    for name in NAMED:
        if entries()[name].hub is None:
            assert f"| `{name}` | [{entries()[name].release_file}]({entries()[name].url}) |" in text
