"""Check an OpenVINO graph from elsewhere in a separate process, before it is opened in this one.

OpenVINO's parser and compiler trust their input: a crafted file can end the process. So the file is read by expat for
its extent, and then a short-lived process parses the graph, compares it with what this package's exporter writes,
compiles it and runs one image; if that process dies, takes too long or too much memory, the graph is refused here.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np

from seresnet.common.text import printable
from seresnet.errors import WeightsError

OPERATIONS = frozenset(  # what the exporter writes (graph.py, int8.py)
    {
        *("Parameter", "Result", "Constant", "Convert", "Convolution", "GroupConvolution", "MatMul", "FakeQuantize"),
        *("MaxPool", "AvgPool", "Relu", "Sigmoid", "Add", "Multiply", "Divide", "Concat", "Slice", "ShapeOf", "Gather"),
        *("ReduceMean", "ReduceSum", "ReduceProd"),
    }
)
WINDOW = {"strides": 2, "pads_begin": 3, "pads_end": 4, "dilations": 1, "kernel": 8}  # at most
DTYPES = frozenset(("f32", "i8", "i32", "i64"))  # of its constants
MAX_XML_BYTES = 32 * 2**20  # legacy_seresnet152, the largest, takes 1.3 MB, and 2.4 MB in int8
MAX_BIN_BYTES = 2 * 2**30
MAX_OPERATIONS = 10_000  # legacy_senet154 has 1,491, in int8 about 4,000
MAX_DEPTH = 16  # of elements in its file; the exporter writes 7
MAX_SIDE = 2048  # of a declared input
CPU_SECONDS = 8  # of the process that checks, and one more for every
BYTES_PER_SECOND = 10 * 2**20  # of weights
PROGRAM = f"from {__name__} import main; sys.exit(main(*sys.argv[1:]))"
MEMORY = 6 * 2**30  # bytes of data of the process that checks


def check_graph(path: Path, num_classes: int | None, in_chans: int | None) -> None:
    """Raise WeightsError for a graph that this package's exporter would not have written.

    - `path`: a ``.xml`` file, with a ``.bin`` of the same name beside it.
    - `num_classes`, `in_chans`: what ``config.json`` says, where it says so.
    """
    for file, most in ((path, MAX_XML_BYTES), (path.with_suffix(".bin"), MAX_BIN_BYTES)):
        try:
            size = file.stat().st_size if file.is_file() else None
        except OSError:
            size = None
        if size is None:
            raise WeightsError(f"{file}: no such file; an OpenVINO model is a .xml with its .bin")
        if size > most:
            raise WeightsError(f"{file}: {size:,} bytes are more than any model of this package takes")
    if reason := _extent_fault(path):
        raise _refused(path, reason)
    seconds = CPU_SECONDS + path.with_suffix(".bin").stat().st_size // BYTES_PER_SECOND
    program = f"import sys; sys.path[:] = {sys.path!r}; {PROGRAM}"  # nothing is imported from the current folder
    command = [sys.executable, "-c", program, str(path.absolute()), json.dumps([num_classes, in_chans]), str(seconds)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=4 * seconds, check=False)
    except subprocess.TimeoutExpired:
        raise _refused(path, "checking it takes too long") from None
    if done.returncode == -getattr(signal, "SIGXCPU", signal.SIGTERM):
        raise _refused(path, "checking it takes too long")
    if done.returncode != 0:
        lines = done.stdout.decode("utf-8", "replace").strip().splitlines()
        reason = lines[-1] if done.returncode == 1 and lines else "OpenVINO does not survive opening it"
        raise _refused(path, reason)


def _refused(path: Path, reason: str) -> WeightsError:
    return WeightsError(
        f"{path}: not a graph that seresnet wrote ({printable(reason)}); quantize or save the model again"
    )


def _extent_fault(path: Path) -> str | None:
    """Return what is too much in a graph's file: parsers take time and stack for each operation and level."""
    depth = operations = 0
    parser = expat.ParserCreate()

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth, operations
        depth += 1
        operations += name == "layer"
        if depth > MAX_DEPTH or operations > MAX_OPERATIONS:
            raise _TooMuch("its elements are nested too deep" if depth > MAX_DEPTH else "it has too many operations")

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1

    def doctype(*_: object) -> None:
        raise _TooMuch("it has a document type")

    parser.StartElementHandler, parser.EndElementHandler, parser.StartDoctypeDeclHandler = start, end, doctype
    try:
        parser.Parse(path.read_bytes(), True)
    except _TooMuch as error:
        return str(error)
    except (expat.ExpatError, ValueError):
        return "it is not XML"
    return None


class _TooMuch(Exception):
    pass


def main(path: str, expected: str, seconds: str) -> int:
    """Check a graph in this process: print the reason and return 1 where it is refused, 0 where it is good."""
    from seresnet.engines.openvino.package import import_openvino

    _limit(int(seconds))
    ov = import_openvino()
    core = ov.Core()
    try:
        model = core.read_model(path)
        reason = fault(model, *json.loads(expected)) or trial(core, model)
    except Exception:  # whatever a crafted file leads to; the text names lines of OpenVINO's source
        reason = "OpenVINO cannot read or run it"
    if reason:
        print(reason)
    return 1 if reason else 0


def fault(model: Any, num_classes: int | None, in_chans: int | None) -> str | None:
    """Return what a parsed graph has that the exporter does not write, or None."""
    nodes = model.get_ops()
    if len(nodes) > MAX_OPERATIONS:
        return f"{len(nodes):,} operations"
    for node in nodes:
        kind = node.get_type_name()
        if kind not in OPERATIONS:
            return f"operation {kind}"
        reason = _constant_fault(node) if kind == "Constant" else _window_fault(node)
        if reason:
            return reason
    return _interface_fault(model, num_classes, in_chans)


def _constant_fault(node: Any) -> str | None:
    name, dtype = node.get_friendly_name(), node.get_element_type().get_type_name()
    if dtype not in DTYPES:
        return f"{name} is of dtype {dtype}"
    if not np.isfinite(node.data).all():
        return f"{name} has values that are not finite"
    return None


def _window_fault(node: Any) -> str | None:
    """Return which extent of a convolution's or pooling's window is beyond any network's."""
    attributes = node.get_attributes()
    for name, most in WINDOW.items():
        values = [int(value) for value in attributes.get(name, ())]
        if any(not 0 <= value <= most for value in values):
            return f"{node.get_friendly_name()} has {name} of {values}"
    return None


def _interface_fault(model: Any, num_classes: int | None, in_chans: int | None) -> str | None:
    if [port.get_any_name() for port in model.inputs] != ["images"]:
        return "its input is not images"
    names = {name for port in model.outputs for name in port.get_names()}
    if not {"logits", "features"} <= names or len(model.outputs) != 2:
        return "its outputs are not logits and features"
    images = model.input("images").get_partial_shape()
    if images.rank.is_dynamic or len(images) != 4 or images[1].is_dynamic:
        return "its input is not (N, C, H, W)"
    channels = images[1].get_length()
    if in_chans is not None and channels != in_chans:
        return f"it takes images of {channels} channels, config.json says {in_chans}"
    for name in ("logits", "features"):
        shape = model.output(name).get_partial_shape()
        if shape.rank.is_dynamic or len(shape) != 2 or shape[1].is_dynamic:
            return f"its output {name} is not (N, K)"
    classes, features = (model.output(name).get_partial_shape()[1].get_length() for name in ("logits", "features"))
    if num_classes is not None and classes != (num_classes or features):
        return f"it has {classes} classes, config.json says {num_classes}"
    return None


def trial(core: Any, model: Any) -> str | None:
    """Compile a graph and run one image of its size; return what is wrong with the output, or None."""
    from seresnet.engines.openvino.model import declared_size, taken_sizes

    shape = model.input("images").get_partial_shape()
    least = max(dimension.get_min_length() for dimension in (shape[2], shape[3]))
    height, width = declared_size(model) or (max(least, 64), max(least, 64))
    if taken_sizes(model).least != least:
        return "it does not take the sizes that it says"
    if not 1 <= least <= MAX_SIDE or not 1 <= min(height, width) <= max(height, width) <= MAX_SIDE:
        return f"images of {height} x {width} pixels"
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled(np.zeros((1, shape[1].get_length(), height, width), np.float32))
    for name in ("logits", "features"):
        width = model.output(name).get_partial_shape()[1].get_length()
        if found[name].shape != (1, width):
            return f"its {name} are {found[name].shape}, not (1, {width})"
        if not np.isfinite(found[name]).all():
            return f"its {name} are not finite"
    return None


def _limit(seconds: int) -> None:
    """Limit the memory and the time of this process; a process that dies writes no core."""
    try:
        import resource
    except ImportError:  # Windows
        return
    for kind, most in ((resource.RLIMIT_DATA, MEMORY), (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
