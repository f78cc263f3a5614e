"""What a model's name stands for: an entry of the index, a repository on the Hub, a directory or a file.

Imports no torch: with a warm cache a classifier is opened without it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seresnet.data.preprocess import Preprocess
from seresnet.errors import ConfigError, WeightsError
from seresnet.models.config import POOL_TYPES
from seresnet.models.variants import VARIANTS
from seresnet.weights.fetch import weights_file
from seresnet.weights.hub import fetch, fetch_weights
from seresnet.weights.index import Entry, default_entry, entries, unknown
from seresnet.weights.labels import imagenet_1k

HUB_PREFIXES = ("hf-hub:", "hf_hub:")
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".tar", ".ckpt")
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin", "model.pth", "pytorch_model.pth")
GRAPH_FILE = "openvino_model.xml"  # a network in OpenVINO's own form, quantized or not; its weights lie beside it
MAX_CONFIG_BYTES = 16_000_000  # the 12,000 class names of ImageNet-12k take 0.5 MB

# Arguments of timm's models: those that are settings here, and those that change no network of the family.
SETTINGS = ("in_chans", "drop_rate", "drop_path_rate", "output_stride")
SEVERAL = "multi_label_classification"  # config.json's problem_type, as transformers has it
HARMLESS = ("num_classes", "global_pool", "img_size", "pretrained", "scriptable", "exportable")


@dataclass
class Origin:
    """Where weights come from, and what is known of them before they are read."""

    name: str
    arch: str | None = None  # None: a file alone, whose tensors tell
    path: Path | None = None  # the weights file; None: there are no weights, or none were asked for
    sha256: str | None = None  # what the file's SHA-256 begins with, where that is known
    preprocess: Preprocess | None = None
    labels: list[str] = field(default_factory=list)
    label_ids: list[str] = field(default_factory=list)
    multi_label: bool = False
    num_classes: int | None = None
    global_pool: str = "avg"
    settings: dict[str, Any] = field(default_factory=dict)  # fields of SEResNetConfig
    tag: str = ""
    graph: Path | None = None  # in place of weights, a network in OpenVINO's own form
    quantized: bool = False  # to 8-bit integers


def locate(name: str, pretrained: bool = True, offline: bool | None = None) -> Origin:
    """Find what ``name`` stands for, and fetch its files where ``pretrained``. Raises WeightsError."""
    name = name.removeprefix("local-dir:")
    if name.startswith(HUB_PREFIXES):
        return _from_hub(name, pretrained, offline)
    entry = entries().get(name) or default_entry(name)
    if entry or name in VARIANTS:
        return _from_index(name, entry, pretrained, offline)
    path = Path(name)
    if _is(path, "dir"):
        return _from_directory(path, pretrained)
    if _is(path, "file") or path.suffix in SUFFIXES:
        return _from_file(path)
    arch = name.partition(".")[0]
    tags = [entry.name for entry in entries().values() if entry.arch == arch] if "/" not in name else []
    if arch in VARIANTS and tags:
        raise WeightsError(f"{name!r}: {arch} has no such weights; there are {', '.join(tags)}")
    raise unknown(name, [*VARIANTS, *entries()])


def _is(path: Path, kind: str) -> bool:
    try:
        return path.is_dir() if kind == "dir" else path.exists()
    except (OSError, ValueError):  # a name that is too long, or holds a null byte
        return False


def _from_index(name: str, entry: Entry | None, pretrained: bool, offline: bool | None) -> Origin:
    if entry is None or not pretrained:
        return Origin(name, name.partition(".")[0], preprocess=entry.transform() if entry else None)
    if entry.bundled:
        return _from_directory(entry.bundled, pretrained)
    return _described(Origin(entry.name, entry.arch, weights_file(entry, offline)), entry)


def _described(origin: Origin, entry: Entry | None) -> Origin:
    """Add what the index knows."""
    if entry:
        origin.preprocess, origin.num_classes, origin.tag = entry.transform(), entry.num_classes, entry.tag
        _name_classes(origin, entry)
    return origin


def _name_classes(origin: Origin, entry: Entry) -> None:
    if entry.labels == "imagenet-1k":
        ids, names = imagenet_1k()
        origin.labels, origin.label_ids = list(names), list(ids)


def _from_file(path: Path) -> Origin:
    """Describe a file: by the configuration beside it, or by the name of its first release."""
    if path.suffix == ".xml":
        origin = _from_directory(path.parent, pretrained=False)
        origin.graph = path
        return origin
    if path.name in WEIGHT_FILES[:2] and (beside := _config_beside(path)):
        beside.path = path
        return beside
    entry = released_as(path)
    head = entry.sha256_head if entry else None
    return _described(Origin(str(path), entry.arch if entry else None, path, head), entry)


def released_as(path: Path) -> Entry | None:
    """Return the weights that were first released under this file's name, or under another with the same digits."""
    digits = re.search(r"-([0-9a-f]{8,64})\.(?:pth|pt|bin)$", path.name)
    for entry in entries().values():
        if entry.release_file == path.name or (
            entry.sha256_head and digits and digits[1].startswith(entry.sha256_head)
        ):
            return entry
    return None


def _config_beside(path: Path) -> Origin | None:
    config = path.parent / "config.json"
    try:
        return _configured(_read_config(config), str(path)) if config.is_file() else None
    except WeightsError:  # of another program, which has nothing to do with the weights
        return None


def _from_hub(name: str, pretrained: bool, offline: bool | None) -> Origin:
    repo, _, revision = name.split(":", 1)[1].partition("@")
    config = fetch(repo, "config.json", revision or None, offline, newest=True)
    origin = _configured(_read_config(config), name)
    if pretrained:
        origin.path = fetch_weights(repo, revision or None, offline, newest=True)
    return origin


def _from_directory(directory: Path, pretrained: bool) -> Origin:
    config = directory / "config.json"
    if not config.is_file():
        raise WeightsError(f"{directory}: has no config.json; give a model directory, or the weights file itself")
    origin = _configured(_read_config(config), str(directory))
    if pretrained:
        origin.path = next((directory / file for file in WEIGHT_FILES if (directory / file).is_file()), None)
        origin.graph = directory / GRAPH_FILE if origin.path is None and (directory / GRAPH_FILE).is_file() else None
        if origin.path is None and origin.graph is None:
            raise WeightsError(f"{directory}: has no model.safetensors; the directory is incomplete, save it again")
    return origin


def _read_config(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise WeightsError(
                f"{path}: {path.stat().st_size} bytes are too many for a config.json; give the right one"
            )
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError):
        raise WeightsError(f"{path}: no readable JSON; the file is damaged, download or save it again") from None
    if not isinstance(config, dict) or not isinstance(config.get("architecture"), str):
        raise WeightsError(f"{path}: names no architecture; give a model directory of timm or seresnet")
    return config


def _configured(config: Mapping[str, Any], name: str) -> Origin:
    """Read a ``config.json`` in timm's layout; fields may stand at its top or within ``pretrained_cfg``."""
    nested = config.get("pretrained_cfg")
    merged: dict[str, Any] = {**(nested if isinstance(nested, dict) else {}), **config}
    arch, _, tag = config["architecture"].partition(".")
    if arch not in VARIANTS:
        raise WeightsError(f"{name}: architecture {arch!r} is no SE-ResNet of this package; use timm for it")
    pool = merged.get("global_pool") if merged.get("global_pool") is not None else "avg"
    if pool not in POOL_TYPES:
        raise WeightsError(f"{name}: global_pool {pool!r} is not supported here; use timm for it")
    classes = merged.get("num_classes")
    if classes is not None and (not isinstance(classes, int) or isinstance(classes, bool) or classes < 0):
        raise WeightsError(f"{name}: num_classes is {classes!r} in config.json; it must be a number")
    try:
        preprocess = Preprocess.from_timm(merged)
    except (ConfigError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(f"{name}: config.json holds no usable preprocessing ({error}); mend it") from None
    labels, ids = _labels(merged, name)
    origin = Origin(name, arch, preprocess=preprocess, labels=labels, label_ids=ids, num_classes=classes)
    origin.global_pool, origin.tag = pool, tag or str(merged.get("tag") or "")
    origin.quantized = bool(config.get("quantization"))
    origin.multi_label = config.get("problem_type") == SEVERAL
    origin.settings = _settings(config.get("model_args"), name)
    if pool not in ("avg", ""):
        origin.settings["global_pool"] = pool
    entry = entries().get(f"{arch}.{origin.tag}")
    if entry and not labels and classes == entry.num_classes:  # timm's own directories leave ImageNet's names out
        _name_classes(origin, entry)
    return origin


def _labels(merged: Mapping[str, Any], name: str) -> tuple[list[str], list[str]]:
    """Return class names, each once, and their ids where ``label_descriptions`` tells ids from names."""
    names: Any = merged.get("label_names", merged.get("labels")) or []
    if isinstance(names, dict):  # by index, as text
        indices = {int(key): value for key, value in names.items() if str(key).isdecimal()}
        count = merged.get("num_classes") or len(indices)
        names = [indices.get(i, f"class {i}") for i in range(min(count, 10**6))]
    if not isinstance(names, list):
        raise WeightsError(f"{name}: label_names in config.json is no list; mend it")
    names = [str(value) for value in names]
    descriptions = merged.get("label_descriptions")
    if not names or not isinstance(descriptions, dict) or not all(key in descriptions for key in names):
        return names, []
    labels = [str(descriptions[key]) for key in names]
    twice = {label for label in labels if labels.count(label) > 1} if len(set(labels)) < len(labels) else set()
    return [f"{label} ({key})" if label in twice else label for key, label in zip(names, labels, strict=True)], names


def _settings(args: object, name: str) -> dict[str, Any]:
    """Return what ``model_args`` sets. Raises WeightsError for an argument that would change the network unseen."""
    args = args if isinstance(args, dict) else {}
    strange = [key for key, value in args.items() if key not in SETTINGS + HARMLESS and value is not None]
    if strange:
        raise WeightsError(f"{name}: model_args {', '.join(strange)} in config.json are unknown here; use timm for it")
    found = {key: args[key] for key in SETTINGS if args.get(key) is not None}
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in found.values()):
        raise WeightsError(f"{name}: model_args in config.json must be numbers, not {found}; mend it")
    return found
