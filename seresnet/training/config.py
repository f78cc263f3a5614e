"""The settings of a training run: each bound stands beside its field, and is checked once, where the value enters."""

from __future__ import annotations

import difflib
import functools
import json
import math
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from seresnet.common.files import read_bounded
from seresnet.errors import ConfigError


def _listed(value: Any) -> Any:
    """Return a lone value, or text like ``[0.5, 1]``, as a tuple."""
    if isinstance(value, str):
        return tuple(text.strip() for text in value.strip("[]()").split(","))
    return tuple(value) if isinstance(value, list | tuple) else (value,)


Probability = Annotated[float, Field(ge=0, le=1)]
DropRate = Annotated[float, Field(ge=0, le=0.99)]
Pixels = Annotated[int, Field(ge=8, le=4096)]
BatchSize = Annotated[int, Field(ge=1, le=2**20)]
Epochs = Annotated[float, Field(ge=0, le=100_000)]
Fractions = Annotated[tuple[Annotated[float, Field(ge=0.001, le=1)], ...], BeforeValidator(_listed)]
FractionRange = Annotated[
    tuple[Annotated[float, Field(ge=0.001, le=1)], Annotated[float, Field(ge=0.001, le=1)]], BeforeValidator(_listed)
]


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a training run beside the data. A recipe returns one; ``--set key=value`` changes a field.

    Times are in epochs, sizes in pixels, rates and fractions from 0 to 1.
    """

    # network
    model: str = "seresnet20"  # a name, a directory or a file, as in seresnet.create_model
    pretrained: bool = False
    drop_rate: DropRate | None = None  # dropout before the classifier; None: the network's own
    drop_path_rate: DropRate = 0.0
    freeze_bn: bool | Literal["auto"] = False  # keep batch norm's statistics; auto: pretrained, batches under 4 images
    precise_bn: bool = False  # statistics of the evaluated model from up to 1,024 training images (arXiv 2105.07576)
    linear_probe: bool = False  # fit the classifier to the features first, and start from it (arXiv 2202.10054)
    grad_checkpointing: bool = False  # recompute each block in backward: less memory, more time
    zero_init_last: bool = True  # from scratch: start the last batch norm of each block at zero
    # images
    size: Pixels | None = None  # None: the weight's own input size
    train_size: Pixels | None = None  # None: size
    mean: Annotated[tuple[Probability, ...], BeforeValidator(_listed)] | None = None  # of the pixels, 0 to 1; None: the
    std: Fractions | None = None  # weight's own, as for std and crop_pct
    crop_pct: Annotated[float, Field(ge=0.1, le=1)] | None = None  # of the evaluation's centre crop
    crop: Literal["resized", "center"] = "resized"
    crop_scale: FractionRange = (0.08, 1.0)
    random_interpolation: bool = False  # crop bilinearly or bicubically, drawn for each image, as timm does
    pad: Annotated[int, Field(ge=0, le=512)] = 0  # random shift by up to this many pixels
    hflip: Probability = 0.5
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0  # degrees
    pixel_noise: Annotated[int, Field(ge=0, le=255)] = 0  # up to this many of 255 grey levels, for each value
    rand_augment: Annotated[float, Field(ge=0, le=10)] = 0.0  # magnitude of two random operations per image; 0: off
    random_erasing_prob: Probability = 0.0
    repeated_aug: Annotated[int, Field(ge=1, le=64)] = 1  # copies of each image in a batch, each with its own crop
    mixup: Annotated[float, Field(ge=0, le=100)] = 0.0  # alpha of the beta distribution of lam; 0: off
    cutmix: Annotated[float, Field(ge=0, le=100)] = 0.0  # alpha; with both, each batch takes one of them at random
    max_megapixels: Annotated[float, Field(ge=0.001, le=1e6)] | None = None  # larger images are skipped; None: 178.9
    val_fraction: Annotated[float, Field(ge=0.001, le=0.9)] = 0.1  # held out of train where there is no validation set
    # optimization
    epochs: Annotated[int, Field(ge=0, le=100_000)] = 100  # 0: the linear probe alone
    global_batch_size: Annotated[int, Field(ge=2, le=2**20)] = 128
    auto_batch_size: bool = False  # lower global_batch_size to suit the data, raise grad_accum_steps to fit the memory
    grad_accum_steps: Annotated[int, Field(ge=1, le=2**16)] = 1  # micro-batches of each step and rank
    optimizer: Literal["sgd", "lamb"] = "sgd"
    lr: Annotated[float, Field(ge=0, le=1000)] = 0.1
    lr_reference_batch: BatchSize | None = None  # lr is for this global batch and scales with it; None: lr as it is
    momentum: Annotated[float, Field(ge=0, le=0.9999)] = 0.9
    nesterov: bool = True
    weight_decay: Probability = 1e-4
    decay_norms: bool = False  # weight decay on norms and biases as well
    schedule: Literal["cosine", "step"] = "cosine"
    warmup_epochs: Epochs = 1.0
    step_epochs: Annotated[tuple[Annotated[int, Field(ge=0, le=100_000)], ...], BeforeValidator(_listed)] = (30, 60, 90)
    step_gamma: Probability = 0.1  # schedule="step": the rate is multiplied by it after each of step_epochs
    loss: Literal["cross_entropy", "bce"] = "cross_entropy"  # images with several labels always take bce
    bce_threshold: Annotated[float, Field(ge=0, le=0.999)] | None = None  # loss="bce": soft targets above it become 1
    label_smoothing: DropRate = 0.0
    class_weights: Literal["balanced"] | None = None  # rare classes count more
    clip_grad: Annotated[float, Field(ge=1e-9, le=1e9)] | None = None  # largest norm of the gradient
    head_lr_scale: Annotated[float, Field(ge=0, le=1e6)] = 1.0  # learning rate of the classifier over the backbone's
    layer_decay: Probability = 1.0  # learning rate of each stage over that of the next one
    ema_decay: Probability | None = 0.999
    patience: Annotated[int, Field(ge=1, le=100_000)] | None = None  # early stopping after so many epochs without gain
    # running
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 where the hardware has it
    compile: bool = False
    sync_bn: bool = False  # several ranks: batch norm over the images of all
    workers: Annotated[int, Field(ge=0, le=1024)] | None = None  # decoding threads; None: the number of cores
    checkpoint_minutes: Annotated[float, Field(ge=0.01, le=1e6)] = 10.0  # and at the end of each epoch

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, _checked(field.name, getattr(self, field.name), strict=True))
        if self.global_batch_size % self.grad_accum_steps:
            raise ConfigError(
                f"global_batch_size {self.global_batch_size} is not a multiple of "
                f"grad_accum_steps {self.grad_accum_steps}; change one of them"
            )
        if self.epochs == 0 and not self.linear_probe:
            raise ConfigError("epochs is 0, which trains nothing: give 1 or more, or linear_probe=true as well")
        if self.crop_scale[0] > self.crop_scale[1]:
            raise ConfigError(f"crop_scale is {self.crop_scale}: the smaller fraction of the area comes first")

    @property
    def peak_lr(self) -> float:
        """The highest learning rate: ``lr`` scaled with the global batch.

        In proportion for SGD (arXiv 1706.02677, section 2.1), by the square root for LAMB (arXiv 1904.00962).
        """
        ratio = self.global_batch_size / (self.lr_reference_batch or self.global_batch_size)
        return self.lr * (ratio if self.optimizer == "sgd" else math.sqrt(ratio))

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain data, as written to a run's ``config.json``."""
        return asdict(self)

    def updated(self, settings: Mapping[str, Any]) -> TrainConfig:
        """Return a copy with ``settings``; text is converted to the field's type. Raises ConfigError."""
        known = [field.name for field in fields(self)]
        for key in settings:
            if key not in known:
                near = difflib.get_close_matches(key, known, 1)
                hint = f"; did you mean {near[0]}?" if near else f"; there are: {', '.join(sorted(known))}"
                raise ConfigError(f"no setting is called {key!r}{hint}")
        values = {k: _checked(k, v, strict=False) if isinstance(v, str) else v for k, v in settings.items()}
        return replace(self, **values)


@functools.cache
def _adapters() -> dict[str, TypeAdapter[Any]]:
    """Return pydantic's validator of each field."""
    return {name: TypeAdapter(hint) for name, hint in get_type_hints(TrainConfig, include_extras=True).items()}


def _checked(name: str, value: Any, *, strict: bool) -> Any:
    """Return ``value`` as the field's type, or raise ConfigError; unless ``strict``, text is converted."""
    adapter = _adapters()[name]
    try:
        is_none = isinstance(value, str) and not strict and value.lower() in ("none", "null") and name != "model"
        return adapter.validate_python(None if is_none else value, strict=strict)
    except ValidationError:
        expected = _expected(adapter.json_schema())
        raise ConfigError(f"{name} cannot be {reprlib.repr(value)}: it takes {expected}") from None


def _expected(schema: dict[str, Any]) -> str:
    """Return in words what pydantic's JSON schema of a field allows."""
    if "anyOf" in schema:
        return " or ".join(_expected(option) for option in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return " or ".join(schema.get("enum", [schema.get("const")]))
    if schema["type"] == "array":
        items = schema.get("prefixItems") or [schema["items"]]
        return f"a list like [{', '.join(_expected(item) for item in items)}]"
    words = {"null": "none", "number": "a number", "integer": "a whole number", "boolean": "true or false"}
    text = words.get(schema["type"], "text")
    return f"{text} from {schema['minimum']} to {schema['maximum']}" if "minimum" in schema else text


NO_SETTINGS = ("data", "precision_used", "lr_used")  # what a run's config.json holds beside its settings
MAX_CONFIG_BYTES = 10**6


def read_config(path: str | Path) -> tuple[TrainConfig, str]:
    """Return the settings and the data set of a previous run from its ``config.json``. Raises ConfigError."""
    path = Path(path)
    try:
        values = json.loads(read_bounded(path, MAX_CONFIG_BYTES))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give a run's config.json") from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{path}: is not JSON; give a run's config.json") from None
    if not isinstance(values, dict) or not {"data", "model"} <= values.keys():
        raise ConfigError(f"{path}: is not a run's config.json; take the one beside last/ and best/")
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
