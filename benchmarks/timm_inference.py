"""What timm's ``inference.py`` does, through timm's public interface: the script itself is not in the wheel.

    python benchmarks/timm_inference.py MODEL_DIRECTORY IMAGE_FOLDER OUT.csv --batch-size 1

Taken over from the script: data set, loader with its prefetcher and worker processes, settings of the model's own
preprocessing at its test size, float32, softmax and top-k for each batch, one pandas table at the end. Left out: the
log, and looking up names of classes, so that it has a little less to do.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.timm_import import timm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--batch-size", type=int, default=256, help="as in timm's script")
    parser.add_argument("--workers", type=int, default=2, help="as in timm's script")
    parser.add_argument("--topk", type=int, default=5)
    arguments = parser.parse_args()
    device = torch.device("cpu")
    model = timm.create_model(f"local-dir:{arguments.model}", pretrained=True).to(device).eval()
    loader = timm.data.create_loader(
        timm.data.create_dataset(name="", root=str(arguments.images)),
        batch_size=arguments.batch_size,
        use_prefetcher=True,
        num_workers=arguments.workers,
        device=device,
        **timm.data.resolve_data_config({}, model=model, use_test_size=True),
    )
    probabilities, indices = [], []
    with torch.inference_mode():
        for images, _ in loader:
            values, classes = model(images).softmax(-1).topk(arguments.topk)
            probabilities.append(values.numpy())
            indices.append(classes.numpy())
    table = {"filename": loader.dataset.filenames(basename=True)}
    for k, (index, probability) in enumerate(
        zip(np.concatenate(indices).T, np.concatenate(probabilities).T, strict=True)
    ):
        table |= {f"index_{k}": index, f"prob_{k}": probability}
    pd.DataFrame(table).set_index("filename").to_csv(arguments.out)


if __name__ == "__main__":
    main()
