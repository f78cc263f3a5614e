"""The model index: published weights by name. Reads ``index.yaml`` and imports no torch."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from seresnet.data.preprocess import Preprocess
from seresnet.errors import WeightsError

BUNDLED = Path(str(files("seresnet.weights").joinpath("bundled")))
CIFAR_PREPROCESS = {
    "input_size": [3, 32, 32],
    "crop_pct": 1.0,
    "interpolation": "bilinear",
    "mean": [0.4914, 0.4822, 0.4465],
    "std": [0.2470, 0.2435, 0.2616],
}


@dataclass(frozen=True)
class Result:
    """One row of accuracy: input size in pixels, crop fraction, top-1 and top-5 accuracy in percent."""

    size: int
    crop_pct: float
    top1: float
    top5: float | None = None


@dataclass(frozen=True)
class Entry:
    """One named weight.

    ``results``, ``flops`` and ``file_size_bytes`` are published; those of bundled weights are measured.
    """

    name: str  # arch.tag
    hub: str | None = None  # repository on the Hugging Face Hub
    url: str | None = None  # release file
    mirrors: Sequence[str] = ()  # other URLs of the same file
    sha256_head: str | None = None  # first hexadecimal digits of the release file's SHA-256
    labels: str | None = None  # "imagenet-1k", or None where no class names ship with this package
    num_classes: int = 1000  # 0: the weights have no classifier
    license: str | None = None
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    test: tuple[int, float] | None = None  # another size and crop that its authors evaluate at
    training: Sequence[Mapping[str, Any]] = ()  # the settings, one mapping for each source
    results: Sequence[Result] = ()  # the first at the weight's own size and crop
    flops: int | None = None
    file_size_bytes: int | None = None
    params: int | None = None  # counted
    origin: str | None = None  # whose release it is
    papers: Sequence[str] = ()
    bundled: Path | None = None  # directory within this package

    @property
    def arch(self) -> str:
        """The architecture, a key of ``VARIANTS``."""
        return self.name.partition(".")[0]

    @property
    def tag(self) -> str:
        """The part of the name behind the architecture."""
        return self.name.partition(".")[2]

    @property
    def release_file(self) -> str | None:
        """The name of the release file, or None."""
        return self.url.rpartition("/")[2] if self.url else None

    @property
    def top1(self) -> float | None:
        """Top-1 accuracy in percent at the weight's own size and crop, or None."""
        return self.results[0].top1 if self.results else None

    @property
    def top5(self) -> float | None:
        """Top-5 accuracy in percent at the weight's own size and crop, or None."""
        return self.results[0].top5 if self.results else None

    def transform(self) -> Preprocess:
        """Return the evaluation transform of these weights."""
        return Preprocess.from_timm(self.preprocess)


@cache
def _document() -> dict[str, Any]:
    import yaml

    text = files("seresnet.weights").joinpath("index.yaml").read_text(encoding="utf-8")
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


@cache
def entries() -> dict[str, Entry]:
    """Return every named weight, by its name ``arch.tag``, bundled ones first."""
    document = _document()
    defaults = document["defaults"]
    named = {
        name: Entry(
            name=name,
            **{
                **defaults,
                **values,
                "preprocess": defaults["preprocess"] | values.get("preprocess", {}),
                "test": tuple(values["test"]) if "test" in values else None,
                "training": tuple(document["training"]["by_name"].get(name, ())),
                "results": tuple(Result(*row) for row in values.get("results", ())),
            },
        )
        for name, values in document["weights"].items()
    }
    return _bundled() | named


@cache
def _bundled() -> dict[str, Entry]:
    """Return the weights in the package, described by their own config.json."""
    found = {}
    for config in sorted(BUNDLED.glob("*/config.json")):
        values = json.loads(config.read_text(encoding="utf-8"))
        found[config.parent.name] = Entry(
            name=config.parent.name,
            bundled=config.parent,
            num_classes=values["num_classes"],
            license="apache-2.0",
            preprocess=values["pretrained_cfg"],
            results=_measured(values),
            file_size_bytes=(config.parent / "model.safetensors").stat().st_size,
        )
    return found


def _measured(config: Mapping[str, Any]) -> tuple[Result, ...]:
    """Return the accuracy that a bundled weight's config.json holds."""
    measured, transform = config.get("measured"), config["pretrained_cfg"]
    if not measured:
        return ()
    return (Result(transform["input_size"][-1], transform["crop_pct"], measured["top1"], measured.get("top5")),)


def find_entry(name: str) -> Entry | None:
    """Return the weight ``arch.tag`` or None. The YAML file is read only for weights that are not bundled."""
    return _bundled().get(name) or entries().get(name)


def default_entry(arch: str) -> Entry | None:
    """Return the default weight of an architecture, the first one in the index, or None."""
    for known in (_bundled, entries):
        if found := next((entry for entry in known().values() if entry.arch == arch), None):
            return found
    return None


def default_transform(arch: str) -> Preprocess:
    """Return the evaluation transform for an architecture: its default weight's, or its data set's."""
    entry = default_entry(arch)
    if entry is not None:
        return entry.transform()
    cifar = arch.removeprefix("se").removeprefix("resnet") in ("20", "32", "56", "110")
    if cifar:
        return Preprocess.from_timm(CIFAR_PREPROCESS)
    document = _document()
    return Preprocess.from_timm(document["defaults"]["preprocess"] | document["untrained"].get(arch, {}))


def list_models(pattern: str | None = None, pretrained: bool = False) -> list[str]:
    """Return the names of architectures, or with ``pretrained`` of weights, that match a shell pattern.

    >>> list_models("legacy_seresnet?8")
    ['legacy_seresnet18']
    """
    from seresnet.models.variants import VARIANTS

    names = list(entries()) if pretrained else list(VARIANTS)
    return [name for name in names if pattern is None or fnmatchcase(name, pattern)]


def unknown(name: str, known: list[str]) -> WeightsError:
    """Return the error for an unknown name."""
    near = difflib.get_close_matches(name, known, 3, 0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "run `seresnet models` to list the names"
    shown = name if len(name) <= 200 else f"{name[:200]}..."
    return WeightsError(f"{shown!r} is not a model, directory or file; {hint}")
