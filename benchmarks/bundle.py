"""Measure a trained model on test images and put it into the package, with what was measured in its config.json.

python benchmarks/bundle.py RUN/last TEST_FOLDER NAME "what the test images are"
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import seresnet
from seresnet.common.files import write_text
from seresnet.weights.index import BUNDLED


def bundle(model: Path, test: Path, name: str, data: str) -> dict[str, object]:
    """Write the package's copy of ``model`` and return what was measured, in per cent."""
    evaluation = seresnet.evaluate(seresnet.load(model, precision="float32"), test)
    if evaluation.unreadable:
        sys.exit(f"{len(evaluation.unreadable)} test images could not be read; fix them first")
    network = seresnet.create_model(model, pretrained=True)
    network.pretrained_cfg["tag"] = name.partition(".")[2]
    directory = seresnet.save(network, BUNDLED / name)
    measured = {
        "data": data,
        "images": len(evaluation.results),
        "top1": round(100 * evaluation.metrics.top1, 3),
        "top5": round(100 * evaluation.metrics.top5, 3),
        "expected_calibration_error": round(100 * evaluation.metrics.ece, 3),
        "precision": "float32",
    }
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    write_text(directory / "config.json", json.dumps(config | {"measured": measured}, indent=2) + "\n")
    return measured


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    print(json.dumps(bundle(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]), indent=2))
