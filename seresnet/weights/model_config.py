"""Read a model's ``config.json`` (timm's layout) without trusting it: every value is bounded before it is used."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from seresnet.common.files import read_bounded
from seresnet.common.text import one_line, printable
from seresnet.data.preprocess import Preprocess
from seresnet.errors import ConfigError, WeightsError
from seresnet.models.config import POOL_TYPES
from seresnet.models.variants import VARIANTS
from seresnet.weights.index import Entry, find_entry
from seresnet.weights.labels import imagenet_1k

MULTI_LABEL = "multi_label_classification"  # config.json's problem_type, as transformers has it
MAX_CONFIG_BYTES = 16_000_000  # the 12,000 class names of ImageNet-12k take 0.5 MB
MAX_CLASSES = 1_000_000  # ImageNet-21k has 21,843
MAX_NAME_CHARACTERS = 1_000
MAX_CHANNELS = 1_024
MAX_SIDE = 4_096  # pixels
MIN_STD = 1e-6

# Arguments of timm's models: those that are settings here, with their bounds, and those that change no network here.
SETTINGS = {
    "in_chans": (1, MAX_CHANNELS),
    "drop_rate": (0.0, 1.0),
    "drop_path_rate": (0.0, 1.0),
    "output_stride": (8, 32),
}
BLOCKS = "blocks_without_se"  # of this project's own
HARMLESS = ("num_classes", "global_pool", "img_size", "pretrained", "scriptable", "exportable")


@dataclass(frozen=True)
class ModelConfig:
    """What is known of weights before they are read."""

    arch: str | None = None  # None: a file alone, which is identified by its tensors
    tag: str = ""
    preprocess: Preprocess | None = None
    labels: tuple[str, ...] = ()  # by class index
    label_ids: tuple[str, ...] = ()  # WordNet's, or none
    multi_label: bool = False  # an image may have several labels, or none
    num_classes: int | None = None
    global_pool: str = "avg"
    settings: Mapping[str, Any] = field(default_factory=dict)  # fields of SEResNetConfig
    quantized: bool = False  # to 8-bit integers


def index_config(entry: Entry) -> ModelConfig:
    """Return what the index knows of a weight."""
    config = ModelConfig(entry.arch, entry.tag, entry.transform(), num_classes=entry.num_classes)
    return with_class_names(config, entry)


def with_class_names(config: ModelConfig, entry: Entry) -> ModelConfig:
    """Return the configuration with the class names of an entry's data set, where they ship with this package."""
    if entry.labels != "imagenet-1k":
        return config
    ids, names = imagenet_1k()
    return replace(config, labels=names, label_ids=ids)


def read_model_config(path: Path, name: str) -> ModelConfig:
    """Read the ``config.json`` of the model called ``name``. Raises WeightsError.

    Its fields may be at its top level or in ``pretrained_cfg``, as timm writes them.
    """
    try:
        config = json.loads(read_bounded(path, MAX_CONFIG_BYTES).decode())
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}); give a model directory") from None
    except (ValueError, RecursionError, MemoryError):
        raise WeightsError(f"{path}: not readable as JSON; the file is damaged, download or save it again") from None
    if not isinstance(config, dict) or not isinstance(config.get("architecture"), str):
        raise WeightsError(f"{path}: names no architecture; give a model directory of timm or seresnet")
    return _Validator(name).validated(config)


@dataclass(frozen=True)
class _Validator:
    """Bounds on each field, and the model's name for the message."""

    name: str

    def error(self, reason: str) -> WeightsError:
        return WeightsError(f"{self.name}: {reason}")

    def validated(self, config: Mapping[str, Any]) -> ModelConfig:
        nested = config.get("pretrained_cfg")
        merged: dict[str, Any] = {**(nested if isinstance(nested, dict) else {}), **config}
        arch, _, tag = config["architecture"].partition(".")
        if arch not in VARIANTS:
            raise self.error(f"architecture {shown(arch)} is not an SE-ResNet of this package; use timm for it")
        pool = "avg" if merged.get("global_pool") is None else merged["global_pool"]
        if not isinstance(pool, str) or pool not in POOL_TYPES:
            raise self.error(f"global_pool {shown(pool)} is not supported here; use timm for it")
        named = merged.get("tag")
        num_classes = self.num_classes(merged.get("num_classes"))
        labels, label_ids = self.labels(merged, num_classes)
        known = ModelConfig(
            arch=arch,
            tag=tag or (named if isinstance(named, str) and len(named) <= 100 else ""),
            preprocess=self.preprocess(merged),
            labels=labels,
            label_ids=label_ids,
            multi_label=config.get("problem_type") == MULTI_LABEL,
            num_classes=num_classes,
            global_pool=pool,
            settings=self.settings(config.get("model_args"), VARIANTS[arch].layers)
            | ({} if pool in ("avg", "") else {"global_pool": pool}),
            quantized=bool(config.get("quantization")),
        )
        entry = find_entry(f"{arch}.{known.tag}")
        if entry and not labels and num_classes == entry.num_classes:  # timm's directories leave ImageNet's names out
            return with_class_names(known, entry)
        return known

    def num_classes(self, value: object) -> int | None:
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_CLASSES:
            raise self.error(
                f"num_classes in config.json is {shown(value)}; it must be an integer from 0 to {MAX_CLASSES:,}"
            )
        return value

    def preprocess(self, merged: Mapping[str, Any]) -> Preprocess:
        for key in ("input_size", "mean", "std"):
            value = merged.get(key)
            if value is not None and not (isinstance(value, list) and len(value) <= MAX_CHANNELS):
                raise self.error(f"{key} is {shown(value)}; it must be a list of at most {MAX_CHANNELS:,} numbers")
        try:
            preprocess = Preprocess.from_timm(merged)
        except (ConfigError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise self.error(f"config.json has no usable preprocessing ({one_line(error)}); fix it") from None
        if max(preprocess.input_size[1:]) > MAX_SIDE:
            raise self.error(f"input_size is {preprocess.input_size}; at most {MAX_SIDE:,} pixels are supported")
        if min(preprocess.std) < MIN_STD or max(map(abs, (*preprocess.mean, *preprocess.std))) > 1 / MIN_STD:
            raise self.error(f"mean and std must be of a usual size ({MIN_STD:g} to {1 / MIN_STD:g}); fix them")
        return preprocess

    def labels(self, merged: Mapping[str, Any], num_classes: int | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return class names, and their ids where ``label_descriptions`` maps ids to names, which are made unique."""
        names: Any = merged.get("label_names", merged.get("labels")) or []
        if isinstance(names, dict):
            names = self.by_index(names, num_classes)
        if not isinstance(names, list):
            raise self.error(f"label_names in config.json is {shown(names)}, not a list; fix it")
        ids = self.texts("label_names", names)
        descriptions = merged.get("label_descriptions")
        if not ids or not isinstance(descriptions, dict) or not all(key in descriptions for key in ids):
            return ids, ()
        labels = self.texts("label_descriptions", [descriptions[key] for key in ids])
        count = Counter(labels)
        return tuple(f"{text} ({key})" if count[text] > 1 else text for key, text in zip(ids, labels, strict=True)), ids

    def by_index(self, names: Mapping[str, Any], num_classes: int | None) -> list[Any]:
        """Return names that are given by their class index, as text; a gap becomes ``class N``."""
        indices = {int(key): value for key, value in names.items() if key.isdecimal() and len(key) <= 7}
        count = len(indices) if num_classes is None else num_classes
        if len(indices) < len(names) or any(index >= MAX_CLASSES for index in indices):
            raise self.error("label_names in config.json has keys that are not class indices; fix it")
        return [indices.get(i, f"class {i}") for i in range(count)]

    def texts(self, key: str, values: Sequence[object]) -> tuple[str, ...]:
        if len(values) > MAX_CLASSES:
            raise self.error(f"{key} has {len(values):,} names; at most {MAX_CLASSES:,} are supported")
        for i, value in enumerate(values):
            if not isinstance(value, str | int | float):
                raise self.error(f"{key} has {shown(value)} for class {i}, not a name; fix it")
            if isinstance(value, str) and len(value) > MAX_NAME_CHARACTERS:
                raise self.error(f"{key} has {len(value):,} characters for class {i}; at most {MAX_NAME_CHARACTERS:,}")
        return tuple(map(_text, values))

    def settings(self, args: object, layers: Sequence[int]) -> dict[str, Any]:
        """Return what ``model_args`` sets; refuse an argument that would change the network unnoticed."""
        args = args if isinstance(args, dict) else {}
        known = (*SETTINGS, *HARMLESS, BLOCKS)
        strange = [printable(key)[:40] for key, value in args.items() if key not in known and value is not None]
        if strange:
            names = ", ".join(strange[:5])
            raise self.error(
                f"model_args {names} in config.json are unknown here and may change the network; use timm for it"
            )
        found = {key: args[key] for key in SETTINGS if args.get(key) is not None}
        for key, value in found.items():
            low, high = SETTINGS[key]
            kind = int if isinstance(low, int) else int | float
            if not isinstance(value, kind) or isinstance(value, bool) or not low <= value <= high:
                limit = f"it must be a number from {low:g} to {high:g}"
                raise self.error(f"{key} in model_args of config.json is {shown(value)}; {limit}")
        if args.get(BLOCKS):
            found[BLOCKS] = self.blocks(args[BLOCKS], layers)
        return found

    def blocks(self, names: object, layers: Sequence[int]) -> tuple[str, ...]:
        """Return the names of blocks without excitation. Raises WeightsError for what are no blocks of the network."""
        there = {f"layer{stage}.{i}" for stage, count in enumerate(layers, start=1) for i in range(count)}
        if not isinstance(names, list) or not all(isinstance(name, str) and name in there for name in names):
            raise self.error(f"{BLOCKS} in model_args of config.json is not a list of this network's blocks; fix it")
        return tuple(names)


def shown(value: object) -> str:
    """Return a value for a message, cut to a few characters."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**30:
        return f"an integer of {value.bit_length():,} bits"
    if isinstance(value, str):
        return repr(value[:60]) + ("..." if len(value) > 60 else "")
    if isinstance(value, list | dict):
        return f"a {'list' if isinstance(value, list) else 'mapping'} of {len(value):,} values"
    return repr(value)


def _text(value: object) -> str:
    if isinstance(value, int) and abs(value) > 10**30:
        return shown(value)
    return str(value)
