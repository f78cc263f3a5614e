"""What quantizing a model changed: accuracy, size and speed of int8 against float32."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

LEAST_ACCURACY = 0.99  # of float32's, on images with classes
LEAST_AGREEMENT = 0.95  # with float32, on images without
INT8 = ("u8", "i8")  # OpenVINO's dtypes of 8-bit integers


@dataclass(frozen=True)
class Speed:
    """The latency of both for a batch, in turn in one process: medians over rounds, and of each round's ratio."""

    batch_size: int
    float32_ms: float
    int8_ms: float
    speedup: float  # how many times faster int8 is
    speedup_quartiles: tuple[float, float]


@dataclass(frozen=True)
class QuantizationReport:
    """What quantizing a network changed, against the same network in float32 on the same images.

    Shares lie between 0 and 1. ``float32_top1`` and ``int8_top1`` are None for images without classes.
    ``logit_error`` is the Euclidean norm of the difference of all logits over that of float32's.
    """

    model: str
    data: str
    calibrated_on: int  # images
    compared_on: int  # other images
    agreement: float  # share of the images for which both predict the same class
    logit_error: float
    float32_top1: float | None
    int8_top1: float | None
    float32_bytes: int
    int8_bytes: int
    weight_bits: int
    layer_dtypes: dict[str, str]  # by layer: what it computes in on this machine, "u8" for 8-bit integers
    speed: tuple[Speed, ...]
    processor: str
    openvino: str
    unreadable: tuple[tuple[str, str], ...]  # path, reason
    notes: tuple[str, ...]

    @property
    def int8_layers(self) -> list[str]:
        """The layers that compute in 8-bit integers."""
        return [name for name, dtype in self.layer_dtypes.items() if dtype in INT8]

    def shortcoming(self, min_accuracy: float | None) -> str | None:
        """Return what is too low, as a line; None where nothing is. See `seresnet.quantize`."""
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

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, in the shape of ``quantization.json``."""
        values = asdict(self)
        values["unreadable"] = [{"path": path, "reason": reason} for path, reason in self.unreadable]
        return values


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
