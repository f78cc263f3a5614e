"""An OpenVINO model of a network: where it comes from, and which precisions it can run in here."""

from __future__ import annotations

import logging
import os
from os import PathLike
from typing import Any

from seresnet.common.machine import has_bfloat16, overflows_bytes, processor
from seresnet.common.text import one_line
from seresnet.engines.openvino.package import import_openvino
from seresnet.errors import ConfigError
from seresnet.models.input_sizes import InputSizes

log = logging.getLogger("seresnet")

# Precision -> OpenVINO's name of the capability, and of the dtype.
FORMATS = {"float32": ("FP32", "f32"), "bfloat16": ("BF16", "bf16"), "float16": ("FP16", "f16")}


def graph_of(model: Any, core: Any) -> Any:
    """Return the OpenVINO model of a network, of a path, or as it is; checked for its input and outputs."""
    if isinstance(model, str | PathLike):
        path = os.fspath(model)
        if not path.endswith(".xml"):  # OpenVINO would try to read it as the file of any framework, noisily
            raise ConfigError(f"{path}: not an OpenVINO model, which is a .xml with its .bin")
        try:
            model = core.read_model(path)
        except RuntimeError as error:
            raise ConfigError(f"{path}: not an OpenVINO model ({one_line(error)})") from None
    elif not isinstance(model, import_openvino().Model):
        from seresnet.engines.openvino.graph import openvino_graph
        from seresnet.models.fuse import FusedSEResNet, fuse_network

        model = openvino_graph(model if isinstance(model, FusedSEResNet) else fuse_network(model))
    names = {name for port in (*model.inputs, *model.outputs) for name in port.names}
    if not {"images", "logits", "features"} <= names or not model.has_rt_info(["seresnet", "input_sizes"]):
        raise ConfigError(
            "this OpenVINO model was not made by seresnet: it lacks images, logits, features or input sizes"
        )
    return model


def declared_size(model: Any) -> tuple[int, int] | None:
    """Return height and width of the images that the weights were made for, where the graph tells."""
    if not model.has_rt_info(["seresnet", "input_size"]):
        return None
    _, height, width = (int(v) for v in str(model.get_rt_info(["seresnet", "input_size"]).value).split(","))
    return height, width


def taken_sizes(model: Any) -> InputSizes:
    """Return the heights and widths of images that the graph takes."""
    return InputSizes.parse(str(model.get_rt_info(["seresnet", "input_sizes"]).value))


def precision_of(model: Any, precision: str, core: Any) -> str:
    """Return the precision that a graph will run in."""
    quantized = any(op.get_type_name() == "FakeQuantize" for op in model.get_ops())
    if quantized and precision not in ("auto", "int8"):
        raise ConfigError(f"this model was quantized to int8: use precision int8 or auto, not {precision}")
    if quantized:
        return "int8"
    if precision == "int8":
        raise ConfigError("precision int8 needs a quantized model: make one with seresnet quantize")
    if precision == "auto":
        return fastest_precision(core)
    if precision not in FORMATS:
        raise ConfigError(f"precision {precision!r} is unknown: use auto, {', '.join(FORMATS)}")
    if precision != "float32" and not has_natively(precision, core):
        raise ConfigError(f"this processor does not compute in {precision} natively: use float32")
    return precision


def warn_of_overflow(model: Any) -> None:
    """Say so where sums of a quantized graph can overflow on this processor: it was made on another one."""
    known = model.has_rt_info(["seresnet", "weight_bits"])
    if overflows_bytes() and not (known and str(model.get_rt_info(["seresnet", "weight_bits"]).value) == "7"):
        log.warning(
            "this model was quantized for processors with VNNI, and may answer wrongly on this one: quantize it here"
        )


def fastest_precision(core: Any) -> str:
    """Return the fastest precision that needs no calibration."""
    return "bfloat16" if has_natively("bfloat16", core) else "float32"


def has_natively(precision: str, core: Any) -> bool:
    """Return whether the processor computes in a precision natively, and OpenVINO makes use of it."""
    if FORMATS[precision][0] not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return False
    # OpenVINO may name bfloat16 where it only converts to it and back: where the flags are known, they count.
    return precision != "bfloat16" or not processor()[1] or has_bfloat16()
