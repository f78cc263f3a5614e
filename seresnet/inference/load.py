"""From a model's name to an engine that runs it: through the cache where it was used before, else by its weights."""

from __future__ import annotations

import hashlib
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seresnet.common.machine import described_processor, processor
from seresnet.common.text import one_line
from seresnet.data.preprocess import Preprocess
from seresnet.engines.base import Engine
from seresnet.engines.registry import ENGINES, check_engine, choose_engine, open_engine
from seresnet.errors import ConfigError, WeightsError
from seresnet.inference.cache import Cache, digest_of, key_of
from seresnet.inference.calibration import Calibration
from seresnet.version import __version__
from seresnet.weights.source import ModelSource, resolve

if TYPE_CHECKING:
    from seresnet.models.resnet import SEResNet

log = logging.getLogger("seresnet")


@dataclass(frozen=True)
class Settings:
    """What a user asks of an engine, see `seresnet.load`."""

    engine: str = "auto"
    device: str | None = None
    precision: str = "auto"
    calibration: Calibration | None = None  # for int8


@dataclass(frozen=True)
class Opened:
    """An engine with a network on it, and what is known of the network's images and classes."""

    engine: Engine
    preprocess: Preprocess | None
    labels: list[str]  # by class index
    label_ids: list[str]  # WordNet's, or none
    multi_label: bool  # whether an image may have several labels, or none


def open_network(network: SEResNet, settings: Settings) -> Opened:
    """Put a network on an engine, which takes it over; with ``precision="int8"`` quantize it first."""
    chosen = _chosen(settings, None)
    model: Any = _quantized(network, settings.calibration) if settings.precision == "int8" else network
    engine = open_engine(chosen, model, settings.device, settings.precision)
    labels = class_names(network.labels, network.num_classes)
    return Opened(engine, network.preprocess, labels, list(network.label_ids), network.multi_label)


def open_named(name: str, settings: Settings, offline: bool | None, num_classes: int | None) -> Opened:
    """Open what a name stands for, see `seresnet.load`. With a warm cache, this needs no torch."""
    check_engine(settings.engine)
    origin = resolve(name, offline=offline)
    with ThreadPoolExecutor(1, thread_name_prefix="seresnet-hash") as pool:
        kept = origin.graph is None and (settings.engine == "auto" or ENGINES[settings.engine].file is not None)
        digests = pool.submit(_digests, origin, settings) if kept else None
        chosen = _chosen(settings, origin)  # meanwhile OpenVINO is imported
    settings = replace(settings, engine=chosen)
    files = digests.result() if digests and num_classes in (None, origin.num_classes) else []
    file = ENGINES[chosen].file
    if file is None or not files:
        return _open_origin(origin, settings, num_classes)
    key = key_of({**_identity(chosen, settings), "origin": _facts(origin), "files": files})
    cache = Cache()
    opened = _from_cache(cache, key, chosen, settings)
    if opened is None:
        opened = _open_origin(origin, settings, num_classes)
        transform = opened.preprocess.to_timm() if opened.preprocess else None
        facts: dict[str, Any] = {"labels": opened.labels, "label_ids": opened.label_ids, "preprocess": transform}
        facts["multi_label"] = opened.multi_label
        if _digests(origin, settings) == files:  # or they were written over while they were read
            engine: Any = opened.engine
            cache.store(key, lambda folder: engine.save(folder / file), facts)
    return opened


def _chosen(settings: Settings, origin: ModelSource | None) -> str:
    """Return the engine's key. Raises ConfigError where it cannot run this form, or in this precision."""
    made_for_openvino = (origin is not None and origin.graph is not None) or settings.precision == "int8"
    if settings.engine == "auto" and made_for_openvino:
        return "openvino"
    chosen = choose_engine(settings.engine, settings.device)
    if made_for_openvino and chosen != "openvino":
        what = origin.name if origin and origin.graph else "a network in int8"
        raise ConfigError(f"{what} runs on openvino alone, not on {chosen}: leave the engine at auto")
    return chosen


def _open_origin(origin: ModelSource, settings: Settings, num_classes: int | None) -> Opened:
    """Open weights by building their network, or OpenVINO's own form of one as it is."""
    if origin.graph is None:
        from seresnet.weights.load import network_of

        return open_network(network_of(origin, num_classes=num_classes), settings)
    if num_classes not in (None, origin.num_classes):
        raise ConfigError(f"{origin.name} has {origin.num_classes} classes for good: give the weights it was made of")
    count = origin.num_classes or len(origin.labels)
    if origin.labels and len(origin.labels) != count:
        raise WeightsError(f"{origin.name}: config.json has {len(origin.labels)} class names for {count} classes")
    engine = open_engine("openvino", origin.graph, settings.device, settings.precision)
    labels, label_ids = class_names(list(origin.labels), count), list(origin.label_ids)
    return Opened(engine, origin.preprocess, labels, label_ids, origin.multi_label)


def _quantized(network: SEResNet, calibration: Calibration | None) -> Any:
    """Return a network in 8-bit integers, as OpenVINO's model."""
    if calibration is None:
        raise ConfigError(
            "precision int8 sets its scales by images of yours: give calibration, a folder of some 300 of the kind to "
            "come, or a model that `seresnet quantize` wrote"
        )
    if network.preprocess is None:
        raise ConfigError("this model has no preprocessing: set model.preprocess to a seresnet.Preprocess first")
    from seresnet.engines.openvino.int8 import quantize

    return quantize(network, calibration.batches(network.preprocess)).model


def _from_cache(cache: Cache, key: str, engine: str, settings: Settings) -> Opened | None:
    """Open an entry of the cache; throw it away where it is damaged."""
    entry = cache.find(key)
    if entry is None:
        return None
    try:
        if not entry.is_whole():
            raise ValueError("its files are not what was written")
        keys = ("preprocess", "labels", "label_ids", "multi_label")
        transform, labels, ids, multi_label = (entry.facts[key] for key in keys)
        file = entry.folder / str(ENGINES[engine].file)
        opened = open_engine(engine, file, settings.device, settings.precision)
        preprocess = Preprocess.from_timm(transform) if transform else None
        return Opened(opened, preprocess, list(labels), list(ids), bool(multi_label))
    except Exception as error:  # whatever a damaged file leads an engine to
        log.info("%s: damaged (%s), made anew", entry.folder, one_line(error))
        cache.discard(key)
        return None


def _identity(engine: str, settings: Settings) -> dict[str, Any]:
    """Return what an engine's own form of a network depends on, besides the network.

    The form in float32 serves every precision and processor; that in int8 was made for one kind of processor.
    """
    quantized = settings.precision == "int8"
    return {
        "seresnet": [__version__, _source()],
        "engine": [engine, version(ENGINES[engine].package)],
        "form": ["int8", described_processor(), *sorted(processor()[1])] if quantized else ["float32"],
    }


def _source() -> str:
    """Return a hash of the code that makes an engine's form: in a working copy it changes within a version."""
    package = Path(__file__).parents[1]
    files = sorted(file for part in ("models", "engines", "weights") for file in (package / part).rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _facts(origin: ModelSource) -> dict[str, Any]:
    """Return what is known of weights apart from where they lie."""
    facts = asdict(origin)
    return {key: value for key, value in facts.items() if key not in ("name", "path", "graph")}


def _digests(origin: ModelSource, settings: Settings) -> list[str]:
    """Return hashes of the weights and of the images to calibrate with; nothing where one cannot be read."""
    if origin.path is None or not origin.path.is_file():
        return []
    images = settings.calibration.digest() if settings.calibration else ""
    try:
        return [digest_of(origin.path), images] if images is not None else []
    except OSError:
        return []


def class_names(labels: list[str], num_classes: int) -> list[str]:
    """Return a name for each class: its own, or "class 0", "class 1", ... where there are none."""
    return list(labels) if len(labels) == num_classes else [f"class {i}" for i in range(num_classes)]
