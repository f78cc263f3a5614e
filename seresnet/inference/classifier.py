"""Classify images: from a model's name to labels with probabilities, image by image and in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from itertools import chain
from os import PathLike, fsdecode
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from seresnet.data.dataset import StoredImage
from seresnet.data.decode import Readable, decode
from seresnet.data.parallel import batched, default_workers, ordered_map
from seresnet.data.preprocess import Preprocess
from seresnet.engines.base import Engine
from seresnet.errors import ConfigError, ImageError
from seresnet.inference.calibration import Calibration
from seresnet.inference.load import Settings, open_named, open_network
from seresnet.weights.source import locate

if TYPE_CHECKING:
    from torch import Tensor

    from seresnet.models.resnet import SEResNet

DEFAULT_MODEL = "seresnet20.cifar10"  # ships with the package

Source = str | PathLike[str] | bytes | Readable | Image.Image | NDArray[Any]  # bytes are an encoded image, not a path
Batch = NDArray[np.float32]


@dataclass(frozen=True)
class Prediction:
    """What a model says about one image, the most probable class first.

    ``path`` is None for an image that came from memory. ``error`` is the reason where the image could not be read;
    labels, indices and probabilities are empty then.
    """

    path: str | None
    labels: tuple[str, ...] = ()
    indices: tuple[int, ...] = ()
    probabilities: tuple[float, ...] = ()
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the prediction as plain values, in the shape of a line of ``seresnet predict --format jsonl``."""
        rows = zip(self.labels, self.indices, self.probabilities, strict=True)
        keys = "label", "index", "probability"
        return {
            "path": self.path,
            "predictions": [dict(zip(keys, row, strict=True)) for row in rows],
            "error": self.error,
        }


@dataclass(frozen=True)
class Scored:
    """The logits (num_classes,) of one image, or the reason where it could not be read."""

    path: str | None
    logits: NDArray[np.float32] | None = None
    error: str | None = None


@dataclass(frozen=True)
class _Read:
    """One decoded image, or the reason why there is none."""

    path: str | None
    pixels: NDArray[np.uint8] | None = None  # (H, W, C)
    error: str | None = None


class Classifier:
    """A model on an engine, with its preprocessing and labels. Made by `load`."""

    def __init__(
        self,
        engine: Engine,
        preprocess: Preprocess | None,
        labels: Sequence[str],
        model_name: str,
        label_ids: Sequence[str] = (),
        multi_label: bool = False,
    ) -> None:
        self.engine = engine
        self.labels = list(labels)
        self.label_ids = list(label_ids)  # WordNet ids by class index, or none
        self.multi_label = multi_label  # each label has a probability of its own; else they sum to 1
        self.model_name = model_name
        self._preprocess = preprocess

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.labels)

    @property
    def preprocess(self) -> Preprocess:
        """The evaluation transform of these weights. Raises ConfigError where the model came without one."""
        if self._preprocess is None:
            raise ConfigError("this model has no preprocessing: set model.preprocess to a seresnet.Preprocess first")
        return self._preprocess

    def logits(self, x: Batch | Tensor) -> Batch:
        """Return logits of preprocessed images: float32 (N, C, H, W) -> float32 (N, num_classes)."""
        return self.engine.logits(x)

    def predict(
        self,
        sources: Source | Iterable[Source],
        topk: int = 5,
        batch_size: int | None = None,
        workers: int | None = None,
    ) -> list[Prediction]:
        """Classify images and return one `Prediction` for each, in the order given. See `stream`."""
        return list(self.stream(sources, topk, batch_size, workers))

    def stream(
        self,
        sources: Source | Iterable[Source],
        topk: int = 5,
        batch_size: int | None = None,
        workers: int | None = None,
    ) -> Iterator[Prediction]:
        """Classify images one after the other, in order, in flat memory: a few batches are held, however many come.

        A source is a path, the bytes of an image file, an open file, a Pillow image, or an array (H, W, C); an array
        (N, H, W, C) is N of them. ``workers`` threads decode the next images while the network runs on a batch (None:
        one a core; 0: none, and each batch is answered before the next is read). ``topk`` is cut to the number of
        classes. An image that cannot be read gives a prediction with an ``error``. Raises ConfigError for a number out
        of its range.
        """
        if not self.num_classes:
            raise ConfigError("this model has no classifier: use embed, or load it with num_classes")
        topk = min(_at_least(1, "topk", topk), self.num_classes)
        return self._predictions(self.scored(sources, batch_size, workers), topk)

    def scored(
        self, sources: Source | Iterable[Source], batch_size: int | None = None, workers: int | None = None
    ) -> Iterator[list[Scored]]:
        """Yield batches of logits, one `Scored` for each image and in order: what `stream` and evaluation rest on."""
        return self._scored(self.batches(sources, batch_size, workers), ahead=workers != 0)

    def batches(
        self, sources: Source | Iterable[Source], batch_size: int | None = None, workers: int | None = None
    ) -> Iterator[tuple[list[Scored], Batch]]:
        """Yield preprocessed images, float32 (N, C, H, W), with a `Scored` without logits for each that was asked for.

        An image that could not be read has its reason there, and is not among the N.
        """
        read = self._read(sources, batch_size, workers)
        return (([Scored(item.path, error=item.error) for item in batch], self._normalized(batch)) for batch in read)

    def embed(
        self, sources: Source | Iterable[Source], batch_size: int | None = None, workers: int | None = None
    ) -> Batch:
        """Return the pooled features of images: float32 (N, num_features), in the order given.

        Raises ImageError, with the path, for an image that cannot be read.
        """
        rows = []
        for batch in self._read(sources, batch_size, workers):
            for item in batch:
                if item.error is not None:
                    raise ImageError(f"{item.path or 'an image from memory'}: {item.error}")
            rows.append(self.engine.embed(self._normalized(batch)))
        return np.concatenate(rows) if rows else self.engine.embed(self._normalized([]))

    def _read(
        self, sources: Source | Iterable[Source], batch_size: int | None, workers: int | None
    ) -> Iterator[list[_Read]]:
        """Decode and crop images in threads, up to two batches ahead of the one that is handed out."""
        size = self.engine.preferred_batch if batch_size is None else _at_least(1, "batch_size", batch_size)
        threads = default_workers() if workers is None else _at_least(0, "workers", workers)
        preprocess = self.preprocess

        def read(source: Source) -> _Read:
            path = _path(source)
            try:
                return _Read(path, preprocess.pixels(decode(source)))
            except ImageError as error:
                return _Read(path, error=str(error))
            except MemoryError:
                return _Read(path, error="not enough memory to decode it")

        return batched(ordered_map(read, _each(sources), threads, ahead=2 * size), size)

    def _normalized(self, batch: list[_Read]) -> Batch:
        channels, height, width = self.preprocess.input_size
        pixels = [item.pixels for item in batch if item.pixels is not None]
        stacked = np.stack(pixels) if pixels else np.empty((0, height, width, channels), np.uint8)
        return self.preprocess.normalize(stacked)  # (N, H, W, C) -> (N, C, H, W)

    def _scored(self, batches: Iterable[tuple[list[Scored], Batch]], ahead: bool) -> Iterator[list[Scored]]:
        """Keep the engine busy: it may take a few batches ``ahead`` of its answers, while the next are decoded."""
        waiting: deque[list[Scored]] = deque()  # for their logits

        def images() -> Iterator[Batch]:
            for items, batch in batches:
                waiting.append(items)
                yield batch

        run = self.engine.map if ahead else partial(map, self.engine.logits)
        for logits in run(images()):
            rows = iter(logits)
            yield [item if item.error is not None else Scored(item.path, next(rows)) for item in waiting.popleft()]

    def _predictions(self, batches: Iterable[list[Scored]], topk: int) -> Iterator[Prediction]:
        for item in chain.from_iterable(batches):
            if item.logits is None:
                yield Prediction(item.path, error=item.error)
                continue
            probabilities = sigmoid(item.logits) if self.multi_label else softmax(item.logits)
            best = np.argsort(-probabilities, kind="stable")[:topk].tolist()
            labels = tuple(self.labels[i] for i in best)
            yield Prediction(item.path, labels, tuple(best), tuple(probabilities[best].tolist()))


def load(
    model: str | PathLike[str] | SEResNet = DEFAULT_MODEL,
    engine: str = "auto",
    precision: str = "auto",
    device: str | None = None,
    offline: bool | None = None,
    num_classes: int | None = None,
    calibration: str | PathLike[str] | Iterable[Source] | None = None,
) -> Classifier:
    """Return a `Classifier` for a model by its name, a directory, a file, ``hf-hub:user/repo``, or a network.

    ``engine`` is "openvino", "onnxruntime", "torch", "torch-compile", or "auto": torch on a GPU where there is one,
    else openvino. ``precision`` is "float32", "bfloat16", on GPUs "float16", or "auto": the fastest that the engine and
    the processor have without calibration, which ``engine.describe()`` tells. With "int8" the network is quantized, on
    openvino, by the ``calibration`` images: a folder, or up to 300 sources as `Classifier.predict` takes them.
    ``device`` is "cpu", "cuda", "cuda:1", ... (None: a GPU where there is one).

    A name is found in a cache of converted models where it was used before, and needs no torch then. A network that is
    handed over is copied, and stays as it is. ``num_classes`` puts a new, untrained classifier in place of the one in
    the weights, where it differs. Raises WeightsError where the weights cannot be had, ConfigError for a setting that
    is unknown or impossible here.
    """
    if calibration is not None and precision != "int8":
        raise ConfigError(f"calibration is for precision int8, not {precision}")
    settings = Settings(engine, device, precision, None if calibration is None else Calibration.of(calibration))
    if isinstance(model, str | PathLike):
        name = os.fspath(model)
        opened = open_named(name, settings, offline, num_classes)
    else:
        name, network = type(model).__name__, deepcopy(model)
        if num_classes is not None and num_classes != network.num_classes:
            network.reset_classifier(num_classes)
        opened = open_network(network, settings)
    return Classifier(
        opened.engine, opened.preprocess, opened.labels, name, opened.label_ids, multi_label=opened.multi_label
    )


def exact_precision(model: str | PathLike[str] | SEResNet) -> str:
    """Return the precision of a model's own numbers: "int8" where a quantized one lies in a directory, or "float32"."""
    local = isinstance(model, str | PathLike) and os.path.exists(model)  # noqa: PTH110 (False for what is no path)
    return "int8" if local and locate(os.fspath(model)).quantized else "float32"  # type: ignore[arg-type]


def softmax(logits: Batch) -> Batch:
    """Return probabilities of logits, float32 (..., classes); they sum to 1 over the last axis."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def sigmoid(logits: Batch) -> Batch:
    """Return the probability of each label by itself, float32 (..., labels), without overflow."""
    return 0.5 + 0.5 * np.tanh(0.5 * logits)


def _each(sources: Source | Iterable[Source]) -> Iterable[Source]:
    """Return an iterable of sources, also for a single one."""
    if isinstance(sources, np.ndarray):
        return sources if sources.ndim == 4 else [sources]
    if isinstance(sources, str | PathLike | bytes | Image.Image) or hasattr(sources, "read"):
        return [sources]  # type: ignore[list-item]
    return sources


def _path(source: Source) -> str | None:
    if isinstance(source, str | PathLike):
        return fsdecode(source)
    return str(source) if isinstance(source, StoredImage) else None


def _at_least(least: int, name: str, value: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name} must be a whole number, {least} or more, not {value!r}")
    return value
