"""What 8-bit integers change: this package against NNCF, on the same weights, images and float32 answers.

    python benchmarks/quantization.py DATA --model seresnet20.cifar10 --out benchmarks/2026-11-23-int8-cifar10.md

DATA holds the model's class folders in train and test (benchmarks/2026-11-23-seresnet20-cifar10.md says where CIFAR-10
comes from). The images to calibrate on are of the training part, the others of the test part. NNCF runs with its
defaults, on the network as OpenVINO's converter gives it, and on the fused network that this package quantizes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray
from record import table, today

from seresnet.common.files import write_text
from seresnet.common.machine import described_processor
from seresnet.data.preprocess import Preprocess
from seresnet.engines.openvino.graph import openvino_graph
from seresnet.engines.openvino.int8 import quantize
from seresnet.inference.images import read_images, to_batch
from seresnet.models.fuse import fuse_network
from seresnet.quantization.images import choose_images
from seresnet.weights.create import create_model

Batch = NDArray[np.float32]
BATCH = 100


def main() -> None:
    """Quantize in several ways, compare each with float32, and write the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="seresnet20.cifar10")
    parser.add_argument("--images", type=int, default=300, help="to calibrate on")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    network = create_model(arguments.model, pretrained=True).eval()
    chosen = choose_images(arguments.data, arguments.images, network.labels, network.label_ids)
    calibration = np.concatenate(list(batches(network.preprocess, chosen.calibrate)))
    images = np.concatenate(list(batches(network.preprocess, [image for image, _ in chosen.compare])))
    targets = np.array([target for _, target in chosen.compare])
    rows = []
    reference: Batch | None = None
    for name, make in ways(network, calibration).items():
        logits = answers(make(), images)
        reference = logits if reference is None else reference
        agreement, accuracy = (logits.argmax(1) == reference.argmax(1)).mean(), (logits.argmax(1) == targets).mean()
        error = np.linalg.norm(logits - reference) / np.linalg.norm(reference)
        rows.append([name, f"{100 * accuracy:.2f} %", f"{100 * agreement:.2f} %", f"{error:.4f}"])
        print(*rows[-1], sep=" | ", flush=True)
    record = table(("", "top-1 accuracy", "top-1 agreement with float32", "relative error of logits"), rows)
    if arguments.out:
        write_text(arguments.out, heading(arguments.model, len(calibration), len(images)) + record)


def ways(network: Any, calibration: Batch) -> dict[str, Callable[[], ov.Model]]:
    """Return functions that make OpenVINO models of a network; the first one's answers are what others are held to."""
    graph = openvino_graph(fuse_network(network))
    size = [1, *calibration.shape[1:]]
    exported = ov.convert_model(network, example_input=torch.zeros(size), input=[-1, *size[1:]])
    dataset = nncf.Dataset([image[None] for image in calibration])
    return {
        "float32": lambda: graph,
        "int8": lambda: quantize(network, [calibration], weight_bits=8).model,
        "int8, weights of 7 bits": lambda: quantize(network, [calibration], weight_bits=7).model,
        "NNCF on OpenVINO's conversion": lambda: nncf.quantize(exported, dataset, subset_size=len(calibration)),
        "NNCF on the fused network": lambda: nncf.quantize(graph.clone(), dataset, subset_size=len(calibration)),
    }


def batches(preprocess: Preprocess, images: Any) -> Iterator[Batch]:
    """Yield preprocessed images; one that cannot be read ends it."""
    for items in read_images(images, preprocess, BATCH):
        bad = [f"{item.path}: {item.error}" for item in items if item.error]
        if bad:
            raise SystemExit(bad[0])
        yield to_batch(items, preprocess)


def answers(model: ov.Model, images: Batch) -> Batch:
    """Return the logits of all images; what is not quantized computes in float32."""
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.concatenate([compiled(images[i : i + BATCH])[0] for i in range(0, len(images), BATCH)])


def heading(model: str, calibrated: int, compared: int) -> str:
    """Return the record's beginning: what was done, and with which versions."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("openvino", "nncf", "torch"))
    counts = f"Calibrated on {calibrated:,} training images, compared on {compared:,} test images"
    facts = f"{versions}; {described_processor()}. No figure of speed is among these."
    return f"# 8-bit integers: {model}, {today()}\n\n{counts}, by `benchmarks/quantization.py`.\n{facts}\n\n"


if __name__ == "__main__":
    main()
