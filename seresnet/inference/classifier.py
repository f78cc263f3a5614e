"""Classify images: from a model's name to labels with probabilities, image by image and in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from functools import partial
from itertools import chain, islice
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from seresnet.common.text import printable
from seresnet.data.decode import MAX_PIXELS
from seresnet.data.preprocess import Preprocess
from seresnet.engines.base import Engine
from seresnet.errors import ConfigError, ImageError
from seresnet.inference.calibration import Calibration
from seresnet.inference.images import Batch, ReadImage, as_array, at_least, each_source, read_images, to_batch
from seresnet.inference.load import Settings, network_of_name, open_named, open_network
from seresnet.inference.prediction import NOT_FINITE, Embedded, Prediction, Scored, check_threshold, predict_row
from seresnet.weights.source import resolve

if TYPE_CHECKING:
    from torch import Tensor

    from seresnet.explanation.explain import Explainer, Explanation
    from seresnet.models.resnet import SEResNet

DEFAULT_MODEL = "seresnet20.cifar10"  # ships with the package


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
        offline: bool | None = None,
        network: Callable[[], SEResNet] | None = None,
    ) -> None:
        self.engine = engine
        self.labels = list(labels)
        self.label_ids = list(label_ids)  # WordNet ids by class index, or none
        self.multi_label = multi_label  # each label has a probability of its own; else they sum to 1
        self.model_name = model_name
        self.max_pixels = MAX_PIXELS  # of an image; more are refused
        self.offline = offline  # whether web addresses are not fetched; None: as ``HF_HUB_OFFLINE`` says
        self._preprocess = preprocess
        self._network = network  # makes the network that the engine runs, with its weights, for `explain`
        self._explainer: Explainer | None = None

    def __repr__(self) -> str:
        size = " x ".join(map(str, self._preprocess.input_size)) if self._preprocess else "no preprocessing"
        classes = f"{self.num_classes} class{'' if self.num_classes == 1 else 'es'}"
        return f"Classifier({printable(self.model_name)!r}, {classes}, {size}, {self.engine.describe()})"

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
        sources: Any,
        topk: int = 5,
        batch_size: int | None = None,
        workers: int | None = None,
        threshold: float | None = None,
    ) -> list[Prediction]:
        """Classify images and return one `Prediction` for each, in the order given. See `stream`."""
        return list(self.stream(sources, topk, batch_size, workers, threshold))

    def stream(
        self,
        sources: Any,
        topk: int = 5,
        batch_size: int | None = None,
        workers: int | None = None,
        threshold: float | None = None,
    ) -> Iterator[Prediction]:
        """Yield a `Prediction` for each image, in order, in flat memory: a few batches are held, however many come.

        - `sources`: a path of a file, a folder (with all images below it) or a glob; an http(s) address; the bytes of
          an image file; an open file; a Pillow image; an array (H, W, C) or a tensor (C, H, W) of uint8 or of floats
          from 0 to 1; N of them as (N, H, W, C) or (N, C, H, W); or an iterable of any of these.
        - `topk`: the most probable classes to return, 1 or more; cut to the number of classes.
        - `batch_size`: images per batch, 1 or more; None takes what suits the engine.
        - `workers`: threads that decode the next images while the network runs; None: one per core; 0: none, and each
          batch is answered before the next one is read.
        - `threshold`: the least probability, 0 to 1, of an answer: below it the one label is "unknown", its index None
          and its probability that of the most probable class. None: every image gets its classes.

        With a single output, or a multi-label model, each probability is a sigmoid; otherwise they sum to 1. An image
        that cannot be read gives a prediction with an ``error``. Raises ConfigError for a number out of its range and
        for a type that holds no images.
        """
        if not self.num_classes:
            raise ConfigError("this model has no classifier: use embed, or load it with num_classes")
        check_threshold(threshold)
        topk = min(at_least(1, "topk", topk), self.num_classes)
        independent = self.multi_label or self.num_classes == 1
        scored = self.scored(each_source(sources, self.offline), batch_size, workers)
        rows = chain.from_iterable(scored)
        return (predict_row(row, self.labels, topk, independent, threshold) for row in rows)

    def scored(
        self, sources: Iterable[Any], batch_size: int | None = None, workers: int | None = None
    ) -> Iterator[list[Scored]]:
        """Yield batches of logits, one `Scored` for each image and in order: what `stream` and evaluation use.

        Every source is one image; folders and globs are not expanded.
        """
        read = self._read(sources, batch_size, workers)
        return self._scored(read, ahead=workers != 0)

    def embed(self, sources: Any, batch_size: int | None = None, workers: int | None = None) -> Batch:
        """Return the pooled features of images, see `stream`: float32 (N, num_features), in the order given.

        Raises ImageError, with the path, for an image that cannot be read or whose features are not finite.
        """
        rows = []
        for batch in self.embedded(each_source(sources, self.offline), batch_size, workers):
            for item in batch:
                if item.features is None:
                    raise ImageError(f"{item.path or 'an image from memory'}: {item.error}")
                rows.append(item.features)
        return np.stack(rows) if rows else self.engine.embed(to_batch([], self.preprocess))

    def embedded(
        self, sources: Iterable[Any], batch_size: int | None = None, workers: int | None = None
    ) -> Iterator[list[Embedded]]:
        """Yield batches of pooled features, one `Embedded` for each image and in order, in flat memory.

        Every source is one image; folders and globs are not expanded. An image that cannot be read has an ``error``.
        """
        for images in self._read(sources, batch_size, workers):
            rows = iter(self.engine.embed(to_batch(images, self.preprocess)))
            yield [
                Embedded(image.path, error=image.error) if image.error is not None else _finite(image.path, next(rows))
                for image in images
            ]

    def explain(self, source: Any, label: str | int | None = None) -> Explanation:
        """Explain the prediction of one image: Grad-CAM, and the gates of each block. Runs on torch, in float32.

        - `source`: one image, see `stream`.
        - `label`: the class to explain, by its name or its index; None: the most probable one.

        The first call reads the weights once more. Raises ImageError for an image that cannot be read, and ConfigError
        for a class that the model does not have, for more than one image, and where there are no weights to read.
        """
        images = list(islice(each_source(source, self.offline), 2))
        if len(images) != 1:
            raise ConfigError("explain takes one image at a time")
        return self.explainer().explain(as_array(images[0]), label, self.max_pixels)

    def explainer(self) -> Explainer:
        """Return what explains this model's predictions, with the weights read. Raises ConfigError without weights."""
        if self._explainer is None:
            from seresnet.explanation.explain import Explainer

            if self._network is None:
                raise ConfigError("this classifier was made without its network: use seresnet.load to explain")
            self._explainer = Explainer(self._network(), self.preprocess, self.labels)
        return self._explainer

    def _read(self, sources: Iterable[Any], batch_size: int | None, workers: int | None) -> Iterator[list[ReadImage]]:
        size = self.engine.preferred_batch if batch_size is None else at_least(1, "batch_size", batch_size)
        return read_images(sources, self.preprocess, size, workers, self.max_pixels)

    def _scored(self, read: Iterable[list[ReadImage]], ahead: bool) -> Iterator[list[Scored]]:
        """Keep the engine busy: it may take a few batches ``ahead`` of its answers, while the next are decoded."""
        waiting: deque[list[ReadImage]] = deque()  # for their logits

        def batches() -> Iterator[Batch]:
            for images in read:
                waiting.append(images)
                yield to_batch(images, self.preprocess)

        run = self.engine.map if ahead else partial(map, self.engine.logits)
        for logits in run(batches()):
            rows = iter(logits)
            yield [
                Scored(image.path, error=image.error) if image.error is not None else _checked(image.path, next(rows))
                for image in waiting.popleft()
            ]


def _checked(path: str | None, logits: Batch) -> Scored:
    """Return the logits of an image; an error in place of logits that are not finite, whatever the engine."""
    return Scored(path, logits) if np.isfinite(logits).all() else Scored(path, error=NOT_FINITE)


def _finite(path: str | None, features: Batch) -> Embedded:
    """Return the features of an image; an error in place of features that are not finite."""
    return Embedded(path, features) if np.isfinite(features).all() else Embedded(path, error=NOT_FINITE)


def load(
    model: str | PathLike[str] | SEResNet = DEFAULT_MODEL,
    engine: str = "auto",
    precision: str = "auto",
    device: str | None = None,
    offline: bool | None = None,
    num_classes: int | None = None,
    calibration: str | PathLike[str] | Iterable[Any] | None = None,
    labels: str | PathLike[str] | Sequence[str] | None = None,
) -> Classifier:
    """Return a `Classifier` for a model by its name, a directory, a file, ``hf-hub:user/repo``, or a network.

    - `engine`: "openvino", "onnxruntime", "torch", "torch-compile", or "auto": torch on a GPU where there is one, else
      openvino.
    - `precision`: "float32", "bfloat16", on GPUs "float16", or "auto": the fastest that the engine and the processor
      have without calibration, which ``engine.describe()`` tells. With "int8" the network is quantized, on openvino,
      by the `calibration` images.
    - `device`: "cpu", "cuda", "cuda:1", ... (None: a GPU where there is one).
    - `offline`: whether the network is not accessed (None: as ``HF_HUB_OFFLINE`` says).
    - `num_classes`: puts a new, untrained classifier in place of the one in the weights, where it differs.
    - `calibration`: a folder, or up to 300 sources as `Classifier.predict` takes them.
    - `labels`: class names in class order, in place of the model's own: a list, "imagenet-1k", or a file with a name a
      line (or JSON).

    A name is found in a cache of converted models where it was used before, and needs no torch then. A network that is
    handed over is copied, and stays as it is. Raises WeightsError where the weights cannot be had, ConfigError for a
    setting that is unknown or impossible here.
    """
    if calibration is not None and precision != "int8":
        raise ConfigError(f"calibration is for precision int8, not {precision}")
    settings = Settings(engine, device, precision, None if calibration is None else Calibration.of(calibration))
    make: Callable[[], SEResNet]
    if isinstance(model, str | PathLike):
        name = os.fspath(model)
        loaded = open_named(name, settings, offline, num_classes)
        make = partial(network_of_name, name, offline, num_classes)
    else:
        name, network = type(model).__name__, deepcopy(model)
        if num_classes is not None and num_classes != network.num_classes:
            network.reset_classifier(num_classes)
        loaded, make = open_network(network, settings), lambda: network
    names, ids = (loaded.labels, loaded.label_ids) if labels is None else _labels(labels, len(loaded.labels))
    return Classifier(loaded.engine, loaded.preprocess, names, name, ids, loaded.multi_label, offline, make)


def _labels(given: str | PathLike[str] | Sequence[str], num_classes: int) -> tuple[list[str], list[str]]:
    """Return class names that a user gave, and their WordNet ids or none. Raises ConfigError for another count."""
    if isinstance(given, str | PathLike):
        from seresnet.weights.labels import read_labels

        names, ids = read_labels(os.fspath(given))
    else:
        names, ids = [str(name) for name in given], []
    if len(names) != num_classes:
        raise ConfigError(f"labels hold {len(names):,} names, the model has {num_classes:,} classes: give one for each")
    return names, ids


def exact_precision(model: str | PathLike[str] | SEResNet) -> str:
    """Return the precision of a model's own numbers: "int8" where a quantized one lies in a directory, or "float32"."""
    local = isinstance(model, str | PathLike) and os.path.exists(model)  # noqa: PTH110 (False for what is no path)
    return "int8" if local and resolve(os.fspath(model)).quantized else "float32"  # type: ignore[arg-type]
