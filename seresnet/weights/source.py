"""Resolve a model's name: an entry of the index, a repository on the Hub, a directory, a training run, or a file.

Imports no torch: with a warm cache a classifier is opened without it.
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass, replace
from pathlib import Path

from seresnet.common.files import read_bounded
from seresnet.errors import WeightsError
from seresnet.models.variants import VARIANTS
from seresnet.weights.fetch import weights_file
from seresnet.weights.hub import fetch, fetch_weights
from seresnet.weights.index import Entry, default_entry, entries, find_entry, unknown
from seresnet.weights.model_config import MAX_CONFIG_BYTES, ModelConfig, index_config, read_model_config

log = logging.getLogger("seresnet")

HUB_PREFIXES = ("hf-hub:", "hf_hub:")
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".tar", ".ckpt")
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin", "model.pth", "pytorch_model.pth")
GRAPH_FILE = "openvino_model.xml"  # a network in OpenVINO's own form, quantized or not; its weights are beside it


@dataclass(frozen=True)
class ModelSource(ModelConfig):
    """Where weights are, and what is known of them before they are read."""

    name: str = ""
    path: Path | None = None  # the weights file; None: there are no weights, or none were asked for
    sha256: str | None = None  # what the file's SHA-256 begins with, where that is known and not yet checked
    graph: Path | None = None  # in place of weights, a network in OpenVINO's own form


def resolve(name: str, pretrained: bool = True, offline: bool | None = None) -> ModelSource:
    """Return what ``name`` stands for, its files downloaded where ``pretrained``. Raises WeightsError."""
    name = name.removeprefix("local-dir:")
    if name.startswith(HUB_PREFIXES):
        return _from_hub(name, pretrained, offline)
    if entry := find_entry(name) or default_entry(name):
        return _from_index(name, entry, pretrained, offline)
    if name in VARIANTS:
        return ModelSource(name, name=name)
    path = Path(name)
    if _exists(path) and path.is_dir():
        return _from_directory(path, pretrained)
    if _exists(path) or path.suffix in SUFFIXES:
        return _from_file(path)
    raise _not_found(name)


def _source(config: ModelConfig, name: str, path: Path | None = None, sha256: str | None = None) -> ModelSource:
    return ModelSource(**vars(config), name=name, path=path, sha256=sha256)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, or has a null byte
        return False


def _not_found(name: str) -> WeightsError:
    arch = name.partition(".")[0]
    tags = [entry.name for entry in entries().values() if entry.arch == arch] if "/" not in name else []
    if arch in VARIANTS and tags:
        return WeightsError(f"{name!r}: {arch} has no such weights; there are {', '.join(tags)}")
    return unknown(name, [*VARIANTS, *entries()])


def _from_index(name: str, entry: Entry, pretrained: bool, offline: bool | None) -> ModelSource:
    if not pretrained:
        return ModelSource(entry.arch, preprocess=entry.transform(), name=name)
    if entry.bundled:
        return _from_directory(entry.bundled, pretrained)
    return _source(index_config(entry), entry.name, weights_file(entry, offline))


def _from_hub(name: str, pretrained: bool, offline: bool | None) -> ModelSource:
    repo, _, revision = name.split(":", 1)[1].partition("@")
    config = read_model_config(fetch(repo, "config.json", revision or None, offline, newest=True), name)
    path = fetch_weights(repo, revision or None, offline, newest=True) if pretrained else None
    return _source(config, name, path)


def _from_directory(directory: Path, pretrained: bool) -> ModelSource:
    directory = _of_run(directory)
    if not (directory / "config.json").exists():
        raise WeightsError(f"{directory}: has no config.json; give a model directory, or the weights file itself")
    source = _source(read_model_config(directory / "config.json", str(directory)), str(directory))
    if not pretrained:
        return source
    path = next((directory / file for file in WEIGHT_FILES if (directory / file).is_file()), None)
    if path is not None:
        return replace(source, path=path)
    if (directory / GRAPH_FILE).is_file():
        return replace(source, graph=directory / GRAPH_FILE)
    raise WeightsError(f"{directory}: has no model.safetensors; the directory is incomplete, save it again")


def _of_run(directory: Path) -> Path:
    """Return the best model of a training run's folder, or its last one, and say so; else the directory itself."""
    if _names_architecture(directory / "config.json"):
        return directory
    for kind in ("best", "last"):
        if (model := directory / kind / "config.json").is_file():
            log.warning("%s is a training run: using its %s model, %s", directory, kind, model.parent)
            return model.parent
    return directory


def _names_architecture(config: Path) -> bool:
    """Return whether a ``config.json`` is a model's, not a training run's."""
    try:
        read = json.loads(read_bounded(config, MAX_CONFIG_BYTES))
    except FileNotFoundError:
        return False
    except OSError:
        return True  # and refused when it is read
    except (ValueError, RecursionError, MemoryError):
        return False
    return isinstance(read, dict) and "architecture" in read


def _from_file(path: Path) -> ModelSource:
    """Describe a file: by the configuration beside it, or by the name of its first release."""
    if path.suffix == ".xml":
        return replace(_from_directory(path.parent, pretrained=False), graph=path)
    if path.name in WEIGHT_FILES[:2] and (config := _config_beside(path)):
        return _source(config, str(path), path)
    if entry := released_as(path):
        return _source(index_config(entry), str(path), path, entry.sha256_head)
    return ModelSource(name=str(path), path=path)


def released_as(path: Path) -> Entry | None:
    """Return the weights that were first released under this file's name, or under another with the same hash."""
    digits = re.search(r"-([0-9a-f]{8,64})\.(?:pth|pt|bin)$", path.name)
    for entry in entries().values():
        same_hash = entry.sha256_head and digits and digits[1].startswith(entry.sha256_head)
        if same_hash or entry.release_file == path.name:
            return entry
    return None


def _config_beside(path: Path) -> ModelConfig | None:
    config = path.parent / "config.json"
    return read_model_config(config, str(path)) if _names_architecture(config) else None
