"""Quantize a network to 8-bit integers, measure what that changes, and keep it only where that is little."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seresnet.common.files import atomic_folder, write_text
from seresnet.common.machine import described_processor
from seresnet.common.timing import Timing, interleaved
from seresnet.engines.base import Engine, engine_class
from seresnet.errors import ConfigError, DataError, SeresnetError
from seresnet.inference.classifier import Classifier, Scored
from seresnet.inference.load import Settings, open_network
from seresnet.quantization.images import Chosen, Image, Labelled, choose_images
from seresnet.weights.source import GRAPH_FILE

if TYPE_CHECKING:
    from seresnet.engines.openvino.int8 import Quantized
    from seresnet.models.resnet import SEResNet

IMAGES = 300  # to calibrate on
LEAST_IMAGES = 5  # to calibrate on, and to compare on
LEAST_ACCURACY = 0.99  # of float32's, on images with classes
LEAST_AGREEMENT = 0.95  # with float32, on images without
BATCH_SIZES = (1, 16)  # that the speed is measured at
ROUNDS, SLOT_SECONDS = 7, 0.2  # in which both take turns, and how long each of them then has
REPORT_FILE = "quantization.json"
FILES = {"config.json", GRAPH_FILE, GRAPH_FILE.replace(".xml", ".bin"), REPORT_FILE}

Progress = Callable[[str, int, int], object]  # a stage, how much of it is done, of how much
Logits = NDArray[np.float32]


class QuantizationError(SeresnetError):
    """A quantized network that answers too differently from the one it was made of; ``report`` tells how."""

    def __init__(self, message: str, report: Quantization) -> None:
        super().__init__(message)
        self.report = report


@dataclass(frozen=True)
class Speed:
    """What both took for a batch, in turn in one process: medians over rounds, and of the ratios within a round."""

    batch_size: int
    float32_ms: float
    int8_ms: float
    ratio: float  # how many times faster int8 is
    ratio_quartiles: tuple[float, float]


@dataclass(frozen=True)
class Quantization:
    """What quantizing a network changed, against the same network in float32 on the same images.

    Shares lie between 0 and 1. ``float32_top1`` and ``int8_top1`` are None for images without classes.
    ``logit_error`` is the Euclidean norm of the difference of all logits over that of float32's.
    """

    model: str
    data: str
    calibrated_on: int  # images
    compared_on: int  # other images
    agreement: float  # share of the images to which both give the same class
    logit_error: float
    float32_top1: float | None
    int8_top1: float | None
    float32_bytes: int
    int8_bytes: int
    weight_bits: int
    number_formats: dict[str, str]  # by layer: what it computes in on this machine, "u8" for 8-bit integers
    speed: tuple[Speed, ...]
    processor: str
    openvino: str
    unreadable: tuple[tuple[str, str], ...]  # path, reason
    notes: tuple[str, ...]

    @property
    def in_int8(self) -> list[str]:
        """The layers that compute in 8-bit integers."""
        return [name for name, number_format in self.number_formats.items() if number_format in ("u8", "i8")]

    def shortcoming(self, min_accuracy: float | None) -> str | None:
        """Return what is too low, as a line; None where nothing is. See `quantize`."""
        if self.float32_top1 is None or self.int8_top1 is None:
            least = LEAST_AGREEMENT if min_accuracy is None else min_accuracy
            if self.agreement >= least:
                return None
            return f"int8 agrees with float32 on {_percent(self.agreement)} of the images, less than {_percent(least)}"
        least = LEAST_ACCURACY if min_accuracy is None else min_accuracy
        if self.int8_top1 >= least * self.float32_top1:
            return None
        kept = f"{_percent(self.int8_top1)} of {_percent(self.float32_top1)}"
        return f"int8 keeps {kept} top-1 accuracy, less than {_percent(least)} of it"

    def summary(self) -> dict[str, Any]:
        """Return the figures as plain values, in the shape of ``quantization.json``."""
        values = asdict(self)
        values["unreadable"] = [{"path": path, "reason": reason} for path, reason in self.unreadable]
        return values


def quantize(
    model: str | PathLike[str] | SEResNet,
    data: str | PathLike[str],
    out: str | PathLike[str],
    images: int = IMAGES,
    min_accuracy: float | None = None,
    workers: int | None = None,
    offline: bool | None = None,
    exist_ok: bool = False,
    progress: Progress | None = None,
) -> Quantization:
    """Quantize a network to 8-bit integers, compare it with float32, and write it to the folder ``out``.

    ``data`` is a folder of images: with class folders or parts, as training takes them, or without. Up to ``images``
    of them, spread over the classes, set the ranges of the 8-bit numbers; others, 2,000 at most, are for comparing.
    ``out`` gets ``config.json``, ``openvino_model.xml`` and ``.bin``, which `seresnet.load` takes, and
    ``quantization.json``; all of them or, where it fails, nothing. Raises QuantizationError, and writes nothing, where
    int8 keeps less than ``min_accuracy`` of float32's top-1 accuracy (None: 0.99), or, on images without classes,
    agrees with float32 on a smaller share than that (None: 0.95); DataError for too few images that can be read;
    WeightsError and ConfigError as `seresnet.load` does.
    """
    from seresnet.weights.save import model_config

    tell: Progress = progress or (lambda stage, done, total: None)
    out = Path(out)
    _check(out, images, min_accuracy, exist_ok)
    name, network = _network(model, offline)
    config = model_config(network)  # fails now where it would later
    float32 = open_network(network, Settings(engine="openvino", precision="float32"))
    chosen = choose_images(data, images, float32.labels, float32.label_ids, offline)
    if (found := len(chosen.calibrate) + len(chosen.compare)) < 2 * LEAST_IMAGES:
        raise DataError(f"{data}: holds {found or 'no'} images, quantization takes {2 * LEAST_IMAGES} or more")
    report, quantized = _measured(name, network, float32.engine, chosen, workers, tell)
    shortcoming = report.shortcoming(min_accuracy)
    if shortcoming:
        raise QuantizationError(f"{shortcoming}; nothing was written (--min-accuracy sets the bound)", report)
    facts = ("weight_bits", "calibrated_on", "compared_on", "agreement", "logit_error", "float32_top1", "int8_top1")
    config["quantization"] = {
        name: getattr(report, name) for name in facts
    }  # by which int8 is known (weights/locate.py)
    with atomic_folder(out) as folder:
        quantized.save(folder)
        write_text(folder / "config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")
        write_text(folder / REPORT_FILE, json.dumps(report.summary(), indent=2, ensure_ascii=False) + "\n")
    return report


def _check(out: Path, images: int, min_accuracy: float | None, exist_ok: bool) -> None:
    if images < LEAST_IMAGES:
        raise ConfigError(f"images must be {LEAST_IMAGES} or more, not {images}: 300 are plenty")
    if min_accuracy is not None and not 0 <= min_accuracy <= 1:
        raise ConfigError(f"min_accuracy must lie between 0 and 1, not {min_accuracy}")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file: give a folder to write to")
    if not exist_ok and out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty: give another folder, or allow overwriting (--exist-ok)")
    others = sorted({file.name for file in out.iterdir()} - FILES) if out.is_dir() else []
    if others:
        raise ConfigError(f"{out} holds more than a quantized model ({', '.join(others[:3])}): give another folder")


def _network(model: str | PathLike[str] | SEResNet, offline: bool | None) -> tuple[str, SEResNet]:
    """Return a name and a network that can be quantized."""
    from seresnet.models.fuse import FusedSEResNet
    from seresnet.weights.load import network_of
    from seresnet.weights.source import locate

    if not isinstance(model, str | PathLike):
        name, network = type(model).__name__, model
    else:
        origin = locate(fspath(model), offline=offline)
        if origin.graph is not None:
            raise ConfigError(f"{fspath(model)} is OpenVINO's own form of a network: give the weights it was made of")
        name, network = fspath(model), network_of(origin)
    if isinstance(network, FusedSEResNet):
        raise ConfigError("a fused network cannot be quantized here: pass the network that it was made from")
    if not network.num_classes:
        raise ConfigError("this model has no classifier, so that int8 cannot be compared with float32")
    return name, network


def _measured(
    name: str, network: SEResNet, float32: Engine, chosen: Chosen, workers: int | None, tell: Progress
) -> tuple[Quantization, Quantized]:
    """Quantize a network on some of the chosen images, and compare it with float32 on the others."""
    from seresnet.engines.openvino.int8 import number_formats
    from seresnet.engines.openvino.int8 import quantize as to_int8

    reader = _Reader(network, tell)
    quantized = to_int8(network, reader.calibration(float32, chosen.calibrate, workers))
    int8 = engine_class("openvino")(quantized.model, None, "int8")
    logits, targets = reader.compared(_Pair(float32, int8), chosen.compare, workers)
    accuracies = [None, None] if targets is None else [float((one.argmax(1) == targets).mean()) for one in logits]
    report = Quantization(
        model=name,
        data=chosen.data,
        calibrated_on=quantized.images,
        compared_on=len(logits[0]),
        agreement=float((logits[0].argmax(1) == logits[1].argmax(1)).mean()),
        logit_error=float(np.linalg.norm(logits[1] - logits[0]) / np.linalg.norm(logits[0])),
        float32_top1=accuracies[0],
        int8_top1=accuracies[1],
        float32_bytes=sum(4 * tensor.numel() for tensor in network.state_dict().values()),
        int8_bytes=quantized.size(),
        weight_bits=quantized.weight_bits,
        number_formats=number_formats(quantized.model),
        speed=tuple(_speeds(float32, int8, network.preprocess.input_size, tell)),
        processor=described_processor(),
        openvino=version("openvino"),
        unreadable=tuple(reader.unreadable),
        notes=chosen.notes,
    )
    return report, quantized


class _Reader:
    """Reads images for a network, says how far it is, and notes what could not be read."""

    def __init__(self, network: SEResNet, tell: Progress) -> None:
        self.network, self.tell = network, tell
        self.unreadable: list[tuple[str, str]] = []

    def calibration(self, engine: Engine, images: Sequence[Image], workers: int | None) -> Iterator[Logits]:
        """Yield preprocessed images. Raises DataError, in the end, where there were too few."""
        done = 0
        for items, batch in self._classifier(engine).batches(images, 16, workers):
            yield batch
            done += self._note(items)
            self.tell("calibrating", done, len(images))
        self._require(len(images) - len(self.unreadable), "to calibrate on")

    def compared(
        self, pair: _Pair, images: Sequence[Labelled], workers: int | None
    ) -> tuple[list[Logits], NDArray[np.int64] | None]:
        """Return the logits of both engines, and the classes of the images, where they are known."""
        rows: list[Logits] = []
        targets: list[int | None] = []
        done = 0
        for items in self._classifier(pair).scored([image for image, _ in images], None, workers):
            classes = (target for _, target in images[done : done + len(items)])
            for item, target in zip(items, classes, strict=True):
                if item.logits is not None:
                    rows.append(item.logits)
                    targets.append(target)
            done += self._note(items)
            self.tell("comparing", done, len(images))
        self._require(len(rows), "to compare on")
        known = [target for target in targets if target is not None]
        return np.split(np.stack(rows), 2, axis=1), np.array(known) if len(known) == len(rows) else None

    def _classifier(self, engine: Any) -> Classifier:
        return Classifier(engine, self.network.preprocess, [], "")

    def _note(self, items: Sequence[Scored]) -> int:
        self.unreadable += [(str(item.path), item.error) for item in items if item.error is not None]
        return len(items)

    def _require(self, readable: int, what: str) -> None:
        if readable < LEAST_IMAGES:
            path, reason = self.unreadable[0] if self.unreadable else ("", "")
            failed = f" ({len(self.unreadable)} cannot be read, among them {path}: {reason})" if path else ""
            raise DataError(f"too few images {what}: {readable}{failed}; give {2 * LEAST_IMAGES} or more in all")


class _Pair:
    """Two engines that answer as one, their logits side by side, so that each image is decoded once."""

    def __init__(self, first: Engine, second: Engine) -> None:
        self.engines = first, second
        self.preferred_batch = first.preferred_batch

    def map(self, batches: Iterable[Logits]) -> Iterator[Logits]:
        """Yield the logits of both, (N, 2 num_classes)."""
        for batch in batches:
            yield np.concatenate([engine.logits(batch) for engine in self.engines], axis=1)


def _speeds(float32: Engine, int8: Engine, size: Sequence[int], tell: Progress) -> Iterator[Speed]:
    """Time both in turn, on random images of the network's own size."""
    for place, batch_size in enumerate(BATCH_SIZES):
        images = np.random.default_rng(0).normal(size=(batch_size, *size)).astype(np.float32)

        def on_round(number: int, before: int = place * ROUNDS) -> None:
            tell("timing", before + number, len(BATCH_SIZES) * ROUNDS)

        rounds = interleaved([partial(e.logits, images) for e in (float32, int8)], ROUNDS, SLOT_SECONDS, on_round)
        slow, fast = (Timing(name, batch_size, tuple(ms)) for name, ms in zip(("float32", "int8"), rounds, strict=True))
        ratio = fast.speedup_over(slow)
        quartiles = ratio.lower_quartile, ratio.upper_quartile
        yield Speed(batch_size, slow.latency_ms.median, fast.latency_ms.median, ratio.median, quartiles)


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
