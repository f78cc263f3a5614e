"""The settings of a training run, checked once, where they enter."""

from __future__ import annotations

import contextlib
import difflib
import json
import math
import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from seresnet.errors import ConfigError


@dataclass(frozen=True)
class TrainConfig:
    """All that decides a training run beside the data. A recipe returns one; ``--set key=value`` changes a field.

    Times are in epochs, sizes in pixels, rates and fractions from 0 to 1.
    """

    # network
    model: str = "seresnet20"  # a name, a directory or a file, as in seresnet.create_model
    pretrained: bool = False
    drop_rate: float | None = None  # dropout before the classifier; None: the network's own
    drop_path_rate: float = 0.0
    freeze_bn: bool | Literal["auto"] = (
        False  # keep batch norm's statistics; auto: pretrained, and fewer than 16 images
    )
    # images
    size: int | None = None  # None: the weight's own input size
    train_size: int | None = None  # None: size
    mean: tuple[float, ...] | None = None  # of the pixels, 0 to 1; None: the weight's own, as the next two
    std: tuple[float, ...] | None = None
    crop_pct: float | None = None  # of the evaluation's centre crop
    crop: Literal["resized", "center"] = "resized"
    crop_scale: tuple[float, float] = (0.08, 1.0)
    random_interpolation: bool = False  # crop bilinearly or bicubically, drawn for each image, as timm does
    pad: int = 0  # random shift by up to this many pixels
    hflip: float = 0.5
    rotation: float = 0.0  # degrees
    jitter: int = 0  # noise of up to this many of 255 grey levels, drawn for each value of each pixel
    rand_augment: float = 0.0  # magnitude, 0 (off) to 10, of two random operations on each image
    erase: float = 0.0
    repeats: int = 1  # of each image in a batch, cropped anew; an epoch then has as many fewer images
    mixup: float = 0.0  # alpha of the mixture's beta distribution; 0: off
    cutmix: float = 0.0  # alpha; with both, each batch takes one of them by a toss
    val_fraction: float = 0.1  # held out of train where the data set has no validation folder
    # optimization
    epochs: int = 100
    global_batch_size: int = 128
    auto_batch_size: bool = False  # lower global_batch_size to suit the data, raise accumulate to fit the memory
    accumulate: int = 1  # micro-batches of each step and process
    optimizer: Literal["sgd", "lamb"] = "sgd"
    lr: float = 0.1
    lr_reference_batch: int | None = None  # lr is for this global batch and grows with it; None: lr as it is
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 1e-4
    decay_norms: bool = False  # weight decay on norms and biases as well
    schedule: Literal["cosine", "step"] = "cosine"
    warmup_epochs: float = 1.0
    step_epochs: tuple[int, ...] = (30, 60, 90)  # schedule="step": the rate is multiplied by step_gamma here
    step_gamma: float = 0.1
    loss: Literal["cross_entropy", "bce"] = "cross_entropy"  # images with several labels always take bce
    bce_threshold: float | None = None  # loss="bce": a mixed image has each label whose share is above this
    label_smoothing: float = 0.0
    class_weights: Literal["balanced"] | None = None  # rare classes weigh more
    clip_grad: float | None = None  # largest norm of the gradient
    head_lr_scale: float = 1.0  # a new classifier's learning rate over the backbone's
    layer_decay: float = 1.0  # each stage's learning rate over that of the stage behind it
    ema_decay: float | None = 0.999
    patience: int | None = None  # stop after this many epochs without a better validation figure
    # running
    seed: int = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 where the hardware has it
    compile: bool = False
    sync_bn: bool = False  # several processes: batch norm over the images of all
    workers: int | None = None  # decoding threads; None: the number of cores
    checkpoint_minutes: float = 10.0  # and at the end of each epoch

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            value = getattr(self, name)
            for number in value if isinstance(value, tuple) else (value,):
                if number is not None and not low <= number <= high:
                    raise ConfigError(f"{name} is {number}: it has to be from {low:g} to {high:g}")
        if self.global_batch_size % self.accumulate:
            raise ConfigError(
                f"global_batch_size {self.global_batch_size} is no multiple of accumulate {self.accumulate}"
            )
        if self.crop_scale[0] > self.crop_scale[1]:
            raise ConfigError(f"crop_scale is {self.crop_scale}: the smaller share of the area comes first")

    @property
    def peak_lr(self) -> float:
        """The highest learning rate: ``lr`` grown with the global batch.

        In proportion for SGD (arXiv 1706.02677, section 2.1), by the square root for LAMB (arXiv 1904.00962).
        """
        ratio = self.global_batch_size / (self.lr_reference_batch or self.global_batch_size)
        return self.lr * (ratio if self.optimizer == "sgd" else math.sqrt(ratio))

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain data, as they stand in a run's ``config.json``."""
        return asdict(self)

    def updated(self, settings: Mapping[str, Any]) -> TrainConfig:
        """Return a copy with ``settings``; text is read by the field's type. Raises ConfigError."""
        hints = get_type_hints(TrainConfig)
        for key in settings:
            if key not in hints:
                near = difflib.get_close_matches(key, hints, 1)
                hint = f"; did you mean {near[0]}?" if near else f"; there are: {', '.join(sorted(hints))}"
                raise ConfigError(f"no setting is called {key!r}{hint}")
        return replace(self, **{key: _coerce(key, value, hints[key]) for key, value in settings.items()})


_RANGES: list[tuple[str, float, float]] = [
    ("drop_rate", 0, 0.99),
    ("drop_path_rate", 0, 0.99),
    ("size", 8, 4096),
    ("train_size", 8, 4096),
    ("mean", 0, 1),
    ("std", 0.001, 1),
    ("crop_pct", 0.1, 1),
    ("crop_scale", 0.001, 1),
    ("pad", 0, 512),
    ("hflip", 0, 1),
    ("rotation", 0, 180),
    ("jitter", 0, 255),
    ("rand_augment", 0, 10),
    ("erase", 0, 1),
    ("repeats", 1, 64),
    ("mixup", 0, 100),
    ("cutmix", 0, 100),
    ("val_fraction", 0.001, 0.9),
    ("epochs", 1, 100_000),
    ("global_batch_size", 2, 2**20),
    ("accumulate", 1, 2**16),
    ("lr", 0, 1000),
    ("lr_reference_batch", 1, 2**20),
    ("momentum", 0, 0.9999),
    ("weight_decay", 0, 1),
    ("warmup_epochs", 0, 100_000),
    ("step_gamma", 0, 1),
    ("bce_threshold", 0, 0.999),
    ("label_smoothing", 0, 0.99),
    ("clip_grad", 1e-9, 1e9),
    ("head_lr_scale", 0, 1e6),
    ("layer_decay", 0, 1),
    ("ema_decay", 0, 1),
    ("patience", 1, 100_000),
    ("seed", 0, 2**31 - 1),
    ("workers", 0, 1024),
    ("checkpoint_minutes", 0.01, 1e6),
]


NO_SETTINGS = ("data", "precision_used", "lr_used")  # what a run's config.json holds beside its settings


def read_config(path: str | Path) -> tuple[TrainConfig, str]:
    """Return the settings and the data set of a former run from its ``config.json``. Raises ConfigError."""
    path = Path(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give a run's config.json") from error
    if not isinstance(values, dict) or not {"data", "model"} <= values.keys():
        raise ConfigError(f"{path}: is no run's config.json; take the one beside last/ and best/")
    settings = {key: value for key, value in values.items() if key not in NO_SETTINGS}
    try:
        return TrainConfig().updated(settings), str(values["data"])
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def parse_settings(pairs: list[str]) -> dict[str, str]:
    """Read ``["lr=0.1", "ema_decay=none"]`` into a dictionary of texts. Raises ConfigError."""
    settings = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key.strip():
            raise ConfigError(f"--set takes key=value, not {pair!r}")
        settings[key.strip()] = value.strip()
    return settings


def _coerce(key: str, value: Any, hint: Any) -> Any:
    """Read ``value`` as the field's type; texts are read as YAML, so that 1e-4, true, none and [0.5, 1] all work."""
    if isinstance(value, str) and hint is not str:
        value = None if value.lower() in ("none", "null") else yaml.safe_load(value)
    if isinstance(value, str) and hint is not str:  # YAML leaves 1e-4 a text
        with contextlib.suppress(ValueError):
            value = float(value)
    for option in get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,):
        if (fit := _fit(value, option)) is not None or (value is None and option is type(None)):
            return fit
    raise ConfigError(f"{key} cannot be {value!r}: it takes {_name(hint)}")


def _fit(value: Any, option: Any) -> Any:
    """Return ``value`` as ``option``, or None where it does not fit."""
    if get_origin(option) is Literal:
        return value if value in get_args(option) else None
    if get_origin(option) is tuple:
        inner, *more = get_args(option)
        items = value if isinstance(value, list | tuple) else [value]
        fitted = [_fit(item, inner) for item in items]
        wrong_length = bool(more) and more[0] is not Ellipsis and len(items) != len(get_args(option))
        return None if None in fitted or wrong_length else tuple(fitted)
    if option is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if option is int and isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, option) and (option is bool or not isinstance(value, bool)) else None


def _name(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(get_args(hint))
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_name(option) for option in get_args(hint))
    if get_origin(hint) is tuple:
        return f"a list like [{', '.join(_name(a) for a in get_args(hint) if a is not Ellipsis)}]"
    return {"NoneType": "none", "float": "a number", "int": "a whole number", "bool": "true or false"}.get(
        hint.__name__, "text"
    )
