"""``seresnet check``: what would spoil a training run on a data set."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

DOUBTED = 0.1  # of the labels; of more, the model is to blame rather than the labels


def check(
    data: Annotated[
        str, Parameter(help="A folder of class folders, a list (.csv, .parquet), tar shards, an archive, or hf:NAME.")
    ],
    /,
    *,
    out: Annotated[Path, Parameter(help="Folder for faults.csv and index.html.")],
    model: Annotated[
        str | None, Parameter(help="A name (see seresnet models), a directory, a file, or hf-hub:user/repo.")
    ] = None,
    device: Annotated[str | None, Parameter(help="cpu, cuda, cuda:1 (default: a GPU if there is one).")] = None,
    workers: Annotated[int | None, Parameter(help="Threads that decode images (default: one per core).")] = None,
    max_megapixels: Annotated[float | None, Parameter(help="Refuse larger images.")] = None,
    offline: Annotated[bool, Parameter(help="Do not access the network.")] = False,
    exist_ok: Annotated[bool, Parameter(help="Overwrite the files in --out.")] = False,
) -> int:
    """Find images that would spoil training: unreadable, tiny, duplicate, leaked, mislabelled, outliers.

    The embeddings of --model tell wrong labels and outliers. faults.csv (path, kind, detail, score) is for seresnet
    train --exclude, index.html shows the images. The exit code is 1 if an image could not be read.
    """
    from seresnet.cli.progress import ImageProgress, announce
    from seresnet.common.files import check_output_folder
    from seresnet.data.decode import pixel_limit
    from seresnet.data.open_dataset import open_splits
    from seresnet.dataset_checks.check import FILE, KINDS, PAGE, write_check
    from seresnet.dataset_checks.check import check as find
    from seresnet.inference.classifier import DEFAULT_MODEL, load

    max_pixels = pixel_limit(max_megapixels)
    check_output_folder(out, exist_ok)
    sets = open_splits(data, offline or None)
    clf = load(model or DEFAULT_MODEL, device=device, offline=offline or None)
    clf.max_pixels = max_pixels
    announce(clf, model)
    with ImageProgress(bar=True, count=lambda: sum(len(images.samples) for images in sets.values())) as progress:
        report = find(data, sets, clf, progress.advance, workers)
    print(progress.summary(), file=sys.stderr)
    write_check(report, out, exist_ok)
    for kind, count in report.counts().items():
        print(f"{kind:16}{count:8,}  {KINDS[kind]}")
    doubted, total = report.counts()["label"], len(report.images)
    if doubted > DOUBTED * total:
        print(
            f"note: {doubted:,} of {total:,} labels are doubted, so the embeddings of {clf.model_name} do not separate "
            "these classes well: use the first rows only, or another --model",
            file=sys.stderr,
        )
    print(f"{out / FILE}, {out / PAGE}", file=sys.stderr)
    return 1 if progress.unreadable else 0
