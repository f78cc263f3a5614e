"""Quantize a model to int8 and compare it with float32; it is kept only where accuracy holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from seresnet.common.files import atomic_folder, check_output_folder, json_text, write_text
from seresnet.common.machine import described_processor
from seresnet.common.timing import Timing, interleaved
from seresnet.data.preprocess import Preprocess
from seresnet.engines.base import Engine
from seresnet.engines.registry import engine_class
from seresnet.errors import ConfigError, DataError, SeresnetError
from seresnet.inference.images import ReadImage, read_images, to_batch
from seresnet.inference.known_graphs import graph_digest, remember
from seresnet.inference.load import class_names
from seresnet.quantization.images import Chosen, Image, Labelled, choose_images
from seresnet.quantization.report import QuantizationReport, Speed
from seresnet.weights.source import GRAPH_FILE

if TYPE_CHECKING:
    from seresnet.models.resnet import SEResNet

IMAGES = 300  # to calibrate on
LEAST_IMAGES = 5  # to calibrate on, and to compare on
CALIBRATION_BATCH = 16
BATCH_SIZES = (1, 16)  # that the speed is measured at
ROUNDS, SLOT_SECONDS = 7, 0.2  # in which both take turns, and how long each of them then has
REPORT_FILE = "quantization.json"
FILES = {"config.json", GRAPH_FILE, GRAPH_FILE.replace(".xml", ".bin"), REPORT_FILE}
IN_CONFIG = ("weight_bits", "calibrated_on", "compared_on", "agreement", "logit_error", "float32_top1", "int8_top1")

Progress = Callable[[str, int, int], object]  # a stage, how much of it is done, of how much
Batch = NDArray[np.float32]


class QuantizationError(SeresnetError):
    """A quantized model whose predictions differ too much from float32's; ``report`` tells how."""

    def __init__(self, message: str, report: QuantizationReport) -> None:
        super().__init__(message)
        self.report = report


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
) -> QuantizationReport:
    """Quantize a model to int8, compare it with float32, and write it to the folder ``out``.

    - `data`: a data set with classes, as training takes it, or a folder of images without.
    - `images`: how many of them, spread over the classes, set the scales of int8, 5 or more; up to 2,000 others are
      compared on.
    - `min_accuracy`: the share of float32's top-1 accuracy, 0 to 1, that int8 must keep (None: 0.99); on images without
      classes, the share of the images on which both must agree (None: 0.95).

    ``out`` gets ``config.json``, ``openvino_model.xml`` and ``.bin``, which `seresnet.load` takes, and
    ``quantization.json``; all of them or, where it fails, nothing. Raises QuantizationError, and writes nothing, below
    ``min_accuracy``; DataError for too few images that can be read; WeightsError and ConfigError as `seresnet.load`.
    """
    from seresnet.weights.save import model_config

    out = Path(out)
    _check(out, images, min_accuracy, exist_ok)
    name, network = _network(model, offline)
    config = model_config(network)  # fails now where it would later
    chosen = choose_images(data, images, class_names(network.labels, network.num_classes), network.label_ids, offline)
    if (found := len(chosen.calibrate) + len(chosen.compare)) < 2 * LEAST_IMAGES:
        raise DataError(f"{data}: holds {found or 'no'} images, quantization takes {2 * LEAST_IMAGES} or more")
    report, quantized = _measured(name, network, chosen, workers, progress or (lambda stage, done, total: None))
    shortcoming = report.shortcoming(min_accuracy)
    if shortcoming:
        raise QuantizationError(f"{shortcoming}; nothing was written (--min-accuracy sets the bound)", report)
    config["quantization"] = {name: getattr(report, name) for name in IN_CONFIG}  # marks it as int8
    with atomic_folder(out) as folder:
        quantized.save(folder)
        write_text(folder / "config.json", json_text(config))
        write_text(folder / REPORT_FILE, json_text(report.to_dict()))
    remember(graph_digest(out / GRAPH_FILE))  # it opens at once, without the check of graphs from elsewhere
    return report


def _check(out: Path, images: int, min_accuracy: float | None, exist_ok: bool) -> None:
    if images < LEAST_IMAGES:
        raise ConfigError(f"images must be {LEAST_IMAGES} or more, not {images}: about 300 are enough")
    if min_accuracy is not None and not 0 <= min_accuracy <= 1:
        raise ConfigError(f"min_accuracy must lie between 0 and 1, not {min_accuracy}")
    check_output_folder(out, exist_ok)
    others = sorted({file.name for file in out.iterdir()} - FILES) if out.is_dir() else []
    if others:
        raise ConfigError(f"{out} holds more than a quantized model ({', '.join(others[:3])}): give another folder")


def _network(model: str | PathLike[str] | SEResNet, offline: bool | None) -> tuple[str, SEResNet]:
    """Return a name and a network that can be quantized."""
    from seresnet.models.fuse import FusedSEResNet
    from seresnet.weights.load import network_of
    from seresnet.weights.source import resolve

    if not isinstance(model, str | PathLike):
        name, network = type(model).__name__, model
    else:
        origin = resolve(fspath(model), offline=offline)
        if origin.graph is not None:
            raise ConfigError(f"{fspath(model)} is an OpenVINO model: give the weights it was made of")
        name, network = fspath(model), network_of(origin)
    if isinstance(network, FusedSEResNet):
        raise ConfigError("a fused network cannot be quantized: give the network that it was made of")
    if not network.num_classes:
        raise ConfigError("this model has no classifier, so that int8 cannot be compared with float32")
    return name, network


class Compared(NamedTuple):
    """What float32 and int8 gave for the same images."""

    float32: Batch  # logits (N, num_classes)
    int8: Batch
    targets: NDArray[np.int64] | None  # classes (N,), where those of all images are known


def _measured(
    name: str, network: SEResNet, chosen: Chosen, workers: int | None, progress: Progress
) -> tuple[QuantizationReport, Any]:
    """Quantize a network on some of the chosen images, and compare it with float32 on the others."""
    from seresnet.engines.openvino.int8 import layer_dtypes
    from seresnet.engines.openvino.int8 import quantize as to_int8

    preprocess = network.preprocess
    if preprocess is None:
        raise ConfigError("this model has no preprocessing: set model.preprocess to a seresnet.Preprocess first")
    reader = ImageReader(preprocess, workers, progress)
    engine = engine_class("openvino")
    quantized = to_int8(network, reader.calibration_batches(chosen.calibrate))
    float32, int8 = engine(network, None, "float32"), engine(quantized.model, None, "int8")
    compared = reader.compare(float32, int8, chosen.compare)
    same = compared.float32.argmax(1) == compared.int8.argmax(1)
    report = QuantizationReport(
        model=name,
        data=chosen.data,
        calibrated_on=quantized.images,
        compared_on=len(same),
        agreement=float(same.mean()),
        logit_error=float(np.linalg.norm(compared.int8 - compared.float32) / np.linalg.norm(compared.float32)),
        float32_top1=_top1(compared.float32, compared.targets),
        int8_top1=_top1(compared.int8, compared.targets),
        float32_bytes=sum(4 * tensor.numel() for tensor in network.state_dict().values()),
        int8_bytes=quantized.size(),
        weight_bits=quantized.weight_bits,
        layer_dtypes=layer_dtypes(quantized),
        speed=tuple(_speeds(float32, int8, preprocess.input_size, progress)),
        processor=described_processor(),
        openvino=version("openvino"),
        unreadable=tuple(reader.unreadable),
        notes=chosen.notes,
    )
    return report, quantized


def _top1(logits: Batch, targets: NDArray[np.int64] | None) -> float | None:
    return None if targets is None else float((logits.argmax(1) == targets).mean())


class ImageReader:
    """Reads images for a network, reports how many are done, and notes which could not be read."""

    def __init__(self, preprocess: Preprocess, workers: int | None, progress: Progress) -> None:
        self.preprocess, self.workers, self.progress = preprocess, workers, progress
        self.unreadable: list[tuple[str, str]] = []

    def calibration_batches(self, images: Sequence[Image]) -> Iterator[Batch]:
        """Yield preprocessed images (N, C, H, W). Raises DataError, in the end, where there were too few."""
        done = 0
        for read in read_images(images, self.preprocess, CALIBRATION_BATCH, self.workers):
            yield to_batch(read, self.preprocess)
            done += self._note(read)
            self.progress("calibrating", done, len(images))
        self._require(len(images) - len(self.unreadable), "to calibrate on")

    def compare(self, float32: Engine, int8: Engine, images: Sequence[Labelled]) -> Compared:
        """Return the logits of both engines for the same images, each of which is decoded once."""
        logits: list[tuple[Batch, Batch]] = []
        targets: list[int | None] = []
        done = 0
        sources = (image for image, _ in images)
        for read in read_images(sources, self.preprocess, float32.preferred_batch, self.workers):
            batch = to_batch(read, self.preprocess)
            logits.append((float32.logits(batch), int8.logits(batch)))
            classes = [target for _, target in images[done : done + len(read)]]
            targets += [target for image, target in zip(read, classes, strict=True) if image.error is None]
            done += self._note(read)
            self.progress("comparing", done, len(images))
        self._require(len(targets), "to compare on")
        known = [target for target in targets if target is not None]
        first, second = (np.concatenate(rows) for rows in zip(*logits, strict=True))
        return Compared(first, second, np.array(known) if len(known) == len(targets) else None)

    def _note(self, read: Sequence[ReadImage]) -> int:
        self.unreadable += [(str(image.path), image.error) for image in read if image.error is not None]
        return len(read)

    def _require(self, readable: int, what: str) -> None:
        if readable < LEAST_IMAGES:
            path, reason = self.unreadable[0] if self.unreadable else ("", "")
            failed = f" ({len(self.unreadable)} cannot be read, among them {path}: {reason})" if path else ""
            raise DataError(f"too few images {what}: {readable}{failed}; give {2 * LEAST_IMAGES} or more in all")


def _speeds(float32: Engine, int8: Engine, size: Sequence[int], progress: Progress) -> Iterator[Speed]:
    """Time both in turn, on random images of the network's own size."""
    for place, batch_size in enumerate(BATCH_SIZES):
        images = np.random.default_rng(0).normal(size=(batch_size, *size)).astype(np.float32)

        def on_round(number: int, before: int = place * ROUNDS) -> None:
            progress("timing", before + number, len(BATCH_SIZES) * ROUNDS)

        rounds = interleaved([partial(e.logits, images) for e in (float32, int8)], ROUNDS, SLOT_SECONDS, on_round)
        slow, fast = (Timing(name, batch_size, tuple(ms)) for name, ms in zip(("float32", "int8"), rounds, strict=True))
        speedup = fast.speedup_over(slow)
        quartiles = speedup.lower_quartile, speedup.upper_quartile
        yield Speed(batch_size, slow.latency_ms.median, fast.latency_ms.median, speedup.median, quartiles)
