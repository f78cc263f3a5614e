"""From a model's name to an engine that runs it: through the cache where it was used before, else by its weights."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seresnet.data.preprocess import Preprocess
from seresnet.engines.base import Engine
from seresnet.engines.registry import ENGINES, check_engine, choose_engine, open_engine
from seresnet.errors import ConfigError, WeightsError
from seresnet.inference import cached, known_graphs
from seresnet.inference.calibration import Calibration
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
class LoadedModel:
    """An engine with a network on it, and what is known of the network's images and classes."""

    engine: Engine
    preprocess: Preprocess | None
    labels: list[str]  # by class index
    label_ids: list[str]  # WordNet's, or none
    multi_label: bool  # whether an image may have several labels, or none
    notes: tuple[str, ...] = ()  # what was guessed or ignored on the way, for the user


def open_named(name: str, settings: Settings, offline: bool | None, num_classes: int | None) -> LoadedModel:
    """Open what a name stands for, see `seresnet.load`, and say what was guessed. A warm cache needs no torch."""
    loaded = _opened(name, settings, offline, num_classes)
    for note in loaded.notes:
        log.warning("%s: %s", name, note)
    return loaded


def _opened(name: str, settings: Settings, offline: bool | None, num_classes: int | None) -> LoadedModel:
    check_engine(settings.engine)
    source = resolve(name, offline=offline)
    if num_classes == source.num_classes:
        num_classes = None  # the classifier stays as it is
    if source.graph is not None:
        return _open_graph(source, source.graph, settings, num_classes)
    with ThreadPoolExecutor(1, thread_name_prefix="seresnet-hash") as pool:
        digests = pool.submit(cached.input_digests, source.path, settings.calibration)
        engine = _engine_for(settings)  # meanwhile OpenVINO is imported
    settings = replace(settings, engine=engine)
    if num_classes is not None or ENGINES[engine].file is None or not digests.result():
        return _build(source, settings, num_classes)
    key = cached.key(source, engine, settings.precision, digests.result())
    found = _from_cache(key, settings)
    return found or _build_and_store(source, settings, key, digests.result())


def open_network(network: SEResNet, settings: Settings) -> LoadedModel:
    """Put a network on an engine, which takes it over; with ``precision="int8"`` quantize it first."""
    engine = _engine_for(settings)
    model: Any = _quantized(network, settings.calibration) if settings.precision == "int8" else network
    return LoadedModel(
        open_engine(engine, model, settings.device, settings.precision),
        network.preprocess,
        class_names(network.labels, network.num_classes),
        list(network.label_ids),
        network.multi_label,
    )


def network_of_name(name: str, offline: bool | None = None, num_classes: int | None = None) -> SEResNet:
    """Return the network that `open_named` puts on an engine, with its weights.

    Raises ConfigError where there are none: of a graph, and of a classifier that was drawn anew for ``num_classes``.
    """
    from seresnet.weights.load import load_network

    source = resolve(name, offline=offline)
    if source.graph is not None:
        raise ConfigError(f"{name} is a graph without weights: give the model that it was made of")
    network = load_network(source).network
    if num_classes not in (None, network.num_classes):
        raise ConfigError(f"the classifier of {num_classes} classes is untrained: train the model first")
    return network


def transform_of(network: SEResNet) -> Preprocess:
    """Return a network's evaluation transform. Raises ConfigError where it came without one."""
    if network.preprocess is None:
        raise ConfigError("this model has no preprocessing: set model.preprocess to a seresnet.Preprocess first")
    transform: Preprocess = network.preprocess
    return transform


def class_names(labels: list[str], num_classes: int) -> list[str]:
    """Return a name for each class: its own, or "class 0", "class 1", ... where there are none."""
    return list(labels) if len(labels) == num_classes else [f"class {i}" for i in range(num_classes)]


def _engine_for(settings: Settings) -> str:
    """Return the engine's key. Raises ConfigError where it cannot run in this precision."""
    if settings.precision != "int8":
        return choose_engine(settings.engine, settings.device)
    return _openvino_only(settings, "a network in int8")


def _openvino_only(settings: Settings, what: str) -> str:
    """Return "openvino". Raises ConfigError where another engine was asked for."""
    chosen = settings.engine if settings.engine == "auto" else choose_engine(settings.engine, settings.device)
    if chosen not in ("auto", "openvino"):
        raise ConfigError(f"{what} runs on openvino alone, not on {chosen}: leave the engine at auto")
    return "openvino"


def _open_graph(source: ModelSource, graph: Path, settings: Settings, num_classes: int | None) -> LoadedModel:
    """Open an OpenVINO graph in a model directory, after a check where this package did not write it."""
    _openvino_only(settings, source.name)
    if num_classes is not None:
        raise ConfigError(f"{source.name} has {source.num_classes} classes for good: give the weights it was made of")
    if source.num_classes is not None and source.labels and len(source.labels) != source.num_classes:
        raise WeightsError(
            f"{source.name}: config.json has {len(source.labels)} class names for {source.num_classes} classes"
        )
    _check_graph(source, graph)
    engine = open_engine("openvino", graph, settings.device, settings.precision)
    labels = class_names(list(source.labels), source.num_classes or len(source.labels))
    return LoadedModel(engine, source.preprocess, labels, list(source.label_ids), source.multi_label)


def _check_graph(source: ModelSource, graph: Path) -> None:
    """Raise WeightsError for a graph that is neither known by its hash nor such as this package writes."""
    try:
        digest = known_graphs.graph_digest(graph)
    except OSError as error:
        raise WeightsError(f"{graph}: {error.strerror}; an OpenVINO model is a .xml with its .bin") from None
    if known_graphs.is_known(digest):
        return
    from seresnet.engines.openvino.check import check_graph

    count = source.num_classes if source.num_classes is not None else len(source.labels) or None
    check_graph(graph, count, source.preprocess.input_size[0] if source.preprocess else None)
    known_graphs.remember(digest)


def _build(source: ModelSource, settings: Settings, num_classes: int | None) -> LoadedModel:
    """Read weights, build their network, and put it on an engine."""
    from seresnet.weights.load import load_network

    loaded = load_network(source, num_classes=num_classes)
    return replace(open_network(loaded.network, settings), notes=loaded.notes)


def _build_and_store(source: ModelSource, settings: Settings, key: str, digests: list[str]) -> LoadedModel:
    """Build a network on an engine, and keep the engine's graph in the cache."""
    loaded = _build(source, settings, None)
    if cached.input_digests(source.path, settings.calibration) == digests:  # or they were replaced while they were read
        facts = {
            "labels": loaded.labels,
            "label_ids": loaded.label_ids,
            "preprocess": loaded.preprocess.to_timm() if loaded.preprocess else None,
            "multi_label": loaded.multi_label,
            "notes": list(loaded.notes),
        }
        cached.store(key, settings.engine, loaded.engine, facts)
    return loaded


def _from_cache(key: str, settings: Settings) -> LoadedModel | None:
    """Open an entry of the cache; None where there is none, or it is damaged and was deleted."""

    def open_entry(file: Path, facts: dict[str, Any]) -> LoadedModel:
        engine = open_engine(settings.engine, file, settings.device, settings.precision)
        preprocess = Preprocess.from_timm(facts["preprocess"]) if facts["preprocess"] else None
        labels, ids, notes = facts["labels"], facts["label_ids"], tuple(facts["notes"])
        return LoadedModel(engine, preprocess, labels, ids, facts["multi_label"], notes)

    return cached.find(key, settings.engine, open_entry)


def _quantized(network: SEResNet, calibration: Calibration | None) -> Any:
    """Return a network in int8, as an OpenVINO model."""
    if calibration is None:
        raise ConfigError(
            "precision int8 needs calibration images: give calibration, a folder of about 300 representative ones, or "
            "a model that `seresnet quantize` wrote"
        )
    if network.preprocess is None:
        raise ConfigError("this model has no preprocessing: set model.preprocess to a seresnet.Preprocess first")
    from seresnet.engines.openvino.int8 import quantize

    return quantize(network, calibration.batches(network.preprocess)).model
