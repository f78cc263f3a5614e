"""From a model's name to an engine that runs it: through the cache where it was used before, else by its weights."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from seresnet import __version__
from seresnet.errors import ConfigError, WeightsError
from seresnet.machine import described_processor, processor
from seresnet.preprocess import Preprocess
from seresnet.runtime.cache import Cache, key_of, sha256_of
from seresnet.runtime.engine import ENGINES, Engine, choose_engine, engine_class, open_engine
from seresnet.weights.locate import Origin, locate

if TYPE_CHECKING:
    from seresnet.models.resnet import SEResNet

log = logging.getLogger("seresnet")


@dataclass(frozen=True)
class Opened:
    """An engine with a network on it, and what is known of the network's images and classes."""

    engine: Engine
    preprocess: Preprocess | None
    labels: list[str]  # by class index
    label_ids: list[str]  # WordNet's, or none


def open_network(network: SEResNet, engine: str, device: str | None, precision: str) -> Opened:
    """Put a network on an engine, which takes it over."""
    labels = _labels(network.labels, network.num_classes)
    opened = open_engine(engine, network, device, precision)
    return Opened(opened, network.preprocess, labels, list(network.label_ids))


def open_named(
    name: str, engine: str, device: str | None, precision: str, offline: bool | None, num_classes: int | None
) -> Opened:
    """Open what a name stands for, see `seresnet.load`. With a warm cache, this needs no torch."""
    origin = locate(name, offline=offline)
    with ThreadPoolExecutor(1, thread_name_prefix="seresnet-hash") as pool:
        digests = None if engine == "torch" else pool.submit(_digests, origin)  # while OpenVINO is imported
        chosen = "openvino" if origin.graph and engine == "auto" else choose_engine(engine, device)
    if origin.graph and chosen != "openvino":
        raise ConfigError(f"{name} is OpenVINO's own form of a network, which engine {chosen} cannot run: use openvino")
    files = digests.result() if digests and num_classes in (None, origin.num_classes) else []
    if ENGINES[chosen].file is None or not files:
        return _open_origin(origin, chosen, device, precision, num_classes)
    key = key_of({**_identity(chosen, device, precision), "origin": _facts(origin), "files": files})
    cache = Cache()
    opened = _from_cache(cache, key, chosen, device, precision)
    if opened is None:
        opened = _open_origin(origin, chosen, device, precision, num_classes)
        facts = {"labels": opened.labels, "label_ids": opened.label_ids}
        facts |= {"preprocess": opened.preprocess.to_timm() if opened.preprocess else None}
        if _digests(origin) == files:  # or they were written over while they were read
            cache.store(key, opened.engine.save, facts)
    return opened


def _open_origin(origin: Origin, engine: str, device: str | None, precision: str, num_classes: int | None) -> Opened:
    """Open weights by building their network, or OpenVINO's own form of one as it is."""
    if origin.graph is None:
        from seresnet.weights.load import network_of

        return open_network(network_of(origin, num_classes=num_classes), engine, device, precision)
    if num_classes not in (None, origin.num_classes):
        raise ConfigError(f"{origin.name} has {origin.num_classes} classes for good: give the weights it was made of")
    count = origin.num_classes or len(origin.labels)
    if origin.labels and len(origin.labels) != count:
        raise WeightsError(f"{origin.name}: config.json has {len(origin.labels)} class names for {count} classes")
    opened = open_engine(engine, origin.graph, device, precision)
    return Opened(opened, origin.preprocess, _labels(origin.labels, count), origin.label_ids)


def _from_cache(cache: Cache, key: str, engine: str, device: str | None, precision: str) -> Opened | None:
    """Open an entry of the cache; throw it away where it is damaged."""
    entry = cache.find(key)
    if entry is None:
        return None
    try:
        if not entry.is_whole():
            raise ValueError("its files are not what was written")
        preprocess, labels, ids = (entry.facts[key] for key in ("preprocess", "labels", "label_ids"))
        opened = open_engine(engine, entry.folder / str(ENGINES[engine].file), device, precision)
        return Opened(opened, Preprocess.from_timm(preprocess) if preprocess else None, list(labels), list(ids))
    except Exception as error:  # whatever a damaged file leads an engine to
        log.info("%s: damaged (%s), made anew", entry.folder, " ".join(str(error).split()))
        cache.discard(key)
        return None


def _identity(engine: str, device: str | None, precision: str) -> dict[str, Any]:
    """Return what an engine's own form of a network depends on, besides the network."""
    processor_name, features = described_processor(), sorted(processor()[1])
    return {
        "seresnet": __version__,
        "engine": [engine, version(ENGINES[engine].package)],
        "cpu": [processor_name, features],
        "device": device or "auto",
        "precision": engine_class(engine).resolve(precision),
    }


def _facts(origin: Origin) -> dict[str, Any]:
    """Return what is known of weights apart from where they lie."""
    facts = asdict(origin)
    return {key: value for key, value in facts.items() if key not in ("name", "path", "graph")}


def _digests(origin: Origin) -> list[str]:
    """Return the SHA-256 of the files that a network comes from, or none where they cannot be read."""
    files = [origin.graph, origin.graph.with_suffix(".bin")] if origin.graph else [origin.path] if origin.path else []
    try:
        return [sha256_of(path) for path in files] if all(path.is_file() for path in files) else []
    except OSError:
        return []


def _labels(labels: list[str], num_classes: int) -> list[str]:
    """Return a name for each class: its own, or "class 0", "class 1", ... where there are none."""
    return list(labels) if len(labels) == num_classes else [f"class {i}" for i in range(num_classes)]
