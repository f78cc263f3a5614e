"""Cases for `hostile.py`: model directories with a damaged OpenVINO graph, or a damaged or crafted `config.json`."""

from __future__ import annotations

import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np

NUMBERS = ("0", "-1", "1", "65536", "1000000", "2147483647", "-2147483648", "4294967296", "9223372036854775807", "")
VALUE = re.compile(r'"-?\d+(?:, ?-?\d+)*"|(?<=<dim>)-?\d+')
_sources: dict[str, Path] = {}


def write_graph(folder: Path, rng: random.Random) -> Path:
    """Write a model directory whose OpenVINO graph, in float32 or int8, has changes in its text or its weights."""
    directory = _copy(folder, _source(folder, rng.choice(("float32", "int8"))))
    graph, weights = directory / "openvino_model.xml", directory / "openvino_model.bin"
    if rng.random() < 0.8:
        text = graph.read_text()
        for _ in range(rng.choice((1, 1, 2, 5))):
            text = mutated_text(text, rng)
        graph.write_text(text)
    else:
        weights.write_bytes(mutated_weights(bytearray(weights.read_bytes()), rng))
    return directory


def write_config(folder: Path, rng: random.Random) -> Path:
    """Write a model directory with safetensors weights whose ``config.json`` has values that no exporter writes."""
    directory = _copy(folder, _source(folder, "safetensors"))
    path = directory / "config.json"
    config = json.loads(path.read_text())
    for _ in range(rng.choice((1, 1, 2, 6))):
        _change(config, rng)
    text = json.dumps(config)
    if rng.random() < 0.3:
        place = rng.randrange(len(text))
        pieces = ("", "[" * 100_000, "9" * 5_000, "\0", "\u202e", '"', "NaN", "1e999", ", " * 50_000)
        text = text[:place] + rng.choice(pieces) + text[place + rng.randrange(40) :]
    path.write_bytes(text.encode("utf-8", "surrogatepass") + rng.choice((b"", b"", b"", b"\xff", b"\0" * 1000)))
    return directory


def open_model(path: Path) -> object:
    """Open a model directory as `predict` does, and classify an image; an answer must be finite."""
    import seresnet

    engine = "openvino" if (path / "openvino_model.xml").exists() else "torch"
    (prediction,) = seresnet.load(path, engine=engine, device="cpu").predict(np.zeros((32, 32, 3), np.uint8))
    if not prediction.error and not (prediction.probabilities and all(np.isfinite(prediction.probabilities))):
        raise ValueError("the answer is not finite")
    return prediction


def _source(folder: Path, kind: str) -> Path:
    """Return a directory with the bundled model, written once for each kind of file."""
    if kind not in _sources:
        import seresnet
        from seresnet.engines.openvino.engine import OpenVINOEngine
        from seresnet.engines.openvino.int8 import quantize
        from seresnet.weights.save import model_config, save

        network = seresnet.create_model("seresnet20.cifar10", pretrained=True).eval()
        directory = folder / f"source-{kind}"
        directory.mkdir(parents=True)
        (directory / "config.json").write_text(json.dumps(model_config(network)))
        if kind == "int8":
            noise = np.random.default_rng(0).normal(size=(8, 3, 32, 32)).astype(np.float32)
            quantize(network, [noise]).save(directory)
        elif kind == "float32":
            OpenVINOEngine(network, precision="float32").save(directory / "openvino_model.xml")
        else:
            save(network, directory)
        _sources[kind] = directory
    return _sources[kind]


def _copy(folder: Path, source: Path) -> Path:
    return Path(shutil.copytree(source, folder / "model"))


def _change(config: dict[str, Any], rng: random.Random) -> None:
    """Set, add or remove one value, at the top or inside."""
    inside = [config, *(value for value in config.values() if isinstance(value, dict))]
    place, odd = rng.choice(inside), _odd_value(rng)
    known = ("architecture", "num_classes", "label_names", "label_descriptions", "input_size", "mean", "std")
    known += ("crop_pct", "interpolation", "global_pool", "model_args", "problem_type", "quantization", "tag")
    known += ("temperature", "crop_mode", "pretrained_cfg", "num_features", "labels", "id2label", "drop_rate")
    key = rng.choice((*known, *place, "\x1b[31m" * 5, "9" * 5_000))
    if rng.random() < 0.15:
        place.pop(key, None)
    elif isinstance(place.get(key), list) and rng.random() < 0.5:
        place[key] = [*place[key][:-1], odd]
    else:
        place[key] = odd


def _odd_value(rng: random.Random) -> Any:
    """Return a value that no exporter writes, or a usual one at another place."""
    deep: list[Any] = []
    for _ in range(500):
        deep = [deep]
    return rng.choice(
        (
            *(None, True, 0, -1, 1, 10, 1000, 2**31, 2**63, 10**400, 3e8, 1e308, -1e-38, 1e-38, float("nan")),
            *(
                float("inf"),
                "",
                "cat",
                "\x1b[2Jx",
                "\u202egpj",
                "a\nb",
                "m$\\frac$",
                "x" * 100_000,
                "../../etc",
                [],
                {},
            ),
            *(deep, [0] * 3, [3, 224, 224], [3, 8192, 8192], [3, 0, 0], [1, 32, 32], [0.5], [1e-38] * 3, ["a"] * 10),
            *(["a", None], {"0": "cat"}, {"a": 1}, {str(i): "n" for i in range(2_000)}, ["same"] * 200_000),
            *(
                "legacy_seresnet50",
                "seresnet20.cifar10",
                "catavgmax",
                "bicubic",
                "squash",
                "multi_label_classification",
            ),
        )
    )


def mutated_text(text: str, rng: random.Random) -> str:
    """Return a graph's text with one change."""
    kind = rng.randrange(7)
    if kind <= 2:
        place = rng.choice(list(VALUE.finditer(text)))
        new = rng.choice(NUMBERS)
        return text[: place.start()] + (f'"{new}"' if place[0][0] == '"' else new) + text[place.end() :]
    if kind == 3:
        start = rng.randrange(len(text))
        return text[:start] + text[start + rng.randrange(1, 200) :]
    if kind == 4:
        places = list(re.finditer(r'type="(\w+)"', text))
        first, second = rng.choice(places), rng.choice(places)
        return text[: first.start()] + second[0] + text[first.end() :]
    if kind == 5:
        lines = text.splitlines(keepends=True)
        first_line, second_line = rng.randrange(len(lines)), rng.randrange(len(lines))
        lines[first_line], lines[second_line] = lines[second_line], lines[first_line]
        return "".join(lines)
    depth = rng.choice((10, 1000, 100_000))
    return text.replace("<layers>", "<layers>" + "<layer>" * depth + "</layer>" * depth, 1)


def mutated_weights(weights: bytearray, rng: random.Random) -> bytearray:
    """Return weights with flipped bytes, a NaN, or an end that is missing."""
    kind = rng.randrange(3)
    if kind == 0:
        for _ in range(rng.choice((1, 10, 1000))):
            weights[rng.randrange(len(weights))] = rng.randrange(256)
    elif kind == 1:
        place = rng.randrange(len(weights) // 4) * 4
        weights[place : place + 4] = np.float32(rng.choice((np.nan, np.inf, 3e38))).tobytes()
    else:
        del weights[rng.randrange(len(weights)) :]
    return weights
