"""What a user would otherwise run: timm's network in torch, compiled, and exported to onnxruntime and OpenVINO."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import openvino as ov
import torch
import torch._inductor.config
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.timm_import import timm

Batch = NDArray[np.float32]
Call = Callable[[Batch], Batch]
HINTS = {"float32": "f32", "bfloat16": "bf16"}


def timm_model(directory: Path) -> torch.nn.Module:
    """Return timm's own network with the weights of a model directory."""
    return timm.create_model(f"local-dir:{directory}", pretrained=True).eval()


def eager(model: torch.nn.Module) -> Call:
    """Return timm as it is."""

    def call(x: Batch) -> Batch:
        with torch.inference_mode():
            return model(torch.from_numpy(x)).numpy()

    return call


def compiled(model: torch.nn.Module) -> Call:
    """Return timm under ``torch.compile`` with frozen weights, each batch size compiled for itself."""
    torch._inductor.config.freezing = True
    frozen = torch.compile(model, dynamic=False)

    def call(x: Batch) -> Batch:
        with torch.no_grad():
            return frozen(torch.from_numpy(x)).numpy()

    return call


def onnx_file(model: torch.nn.Module, path: Path) -> Path:
    """Return the ONNX file of a model, for any batch size, made when it is not there."""
    if not path.exists():
        example = (torch.zeros(2, 3, 224, 224),)
        shapes = ({0: torch.export.Dim("batch")},)
        torch.onnx.export(model, example, path, dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False)
    return path


def onnx(path: Path) -> Call:
    """Return an ONNX file on onnxruntime with its defaults, but for threads that do not spin between calls."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.force_spinning_stop", "1")  # others take turns with it here
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]


def openvino_file(model: torch.nn.Module, path: Path) -> Path:
    """Return OpenVINO's own conversion of a model, made when it is not there."""
    if not path.exists():
        converted = ov.convert_model(model, example_input=torch.zeros(1, 3, 224, 224), input=[-1, 3, 224, 224])
        ov.save_model(converted, path, compress_to_fp16=False)
    return path


def nncf_file(converted: Path, images: Batch, path: Path) -> Path:
    """Return a conversion that NNCF quantized, with its defaults, on images one by one; made when it is not there."""
    if not path.exists():
        import nncf

        dataset = nncf.Dataset([image[None] for image in images])
        ov.save_model(nncf.quantize(ov.Core().read_model(converted), dataset), path, compress_to_fp16=False)
    return path


def openvino(path: Path, batch_size: int, precision: str) -> Call:
    """Return a file on OpenVINO as its guide says for low latency, compiled for one batch size.

    In int8 what is not quantized runs in what OpenVINO takes by itself.
    """
    core = ov.Core()
    model = core.read_model(path)
    model.reshape([batch_size, 3, 224, 224])
    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if precision in HINTS:
        config["INFERENCE_PRECISION_HINT"] = HINTS[precision]
    runnable = core.compile_model(model, "CPU", config)
    return lambda x: runnable(x)[0].copy()


def for_our_engine(path: Path, other: Path) -> Path:
    """Write a conversion of timm's network under the names and with the notes that this project's engine reads.

    With it the rewrites can be told from the engine: the same engine, timm's graph.
    """
    if not other.exists():
        model = ov.Core().read_model(path)
        model.inputs[0].set_names({"images"})
        model.outputs[0].set_names({"logits", "features"})  # the engine asks for both; the second is not used
        model.set_rt_info("3,224,224", ["seresnet", "input_size"])
        ov.save_model(model, other, compress_to_fp16=False)
    return other
