"""``seresnet pack``: pack labelled images into tar shards."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def pack(
    data: Annotated[
        str, Parameter(help="A folder of class folders, a list (.csv, .parquet), tar shards, an archive, or hf:NAME.")
    ],
    /,
    *,
    out: Annotated[Path, Parameter(help="Folder for the shards.")],
    size: Annotated[
        int | None,
        Parameter(
            help="Reduce larger images to this many pixels on their shorter side (default: keep the files as they are)."
        ),
    ] = None,
    shard_size: Annotated[int, Parameter(help="Images per shard.")] = 5000,
    max_megapixels: Annotated[float | None, Parameter(help="Leave out larger images (default: 178.9).")] = None,
    workers: Annotated[int | None, Parameter(help="Threads that read images (default: one per core).")] = None,
    exist_ok: Annotated[bool, Parameter(help="Finish the shards in --out, or replace those of other images.")] = False,
    offline: Annotated[bool, Parameter(help="Do not access the network.")] = False,
) -> int:
    """Pack labelled images into WebDataset shards (.tar), which every command takes as DATA.

    Each image is decoded once, as a check; one that cannot be read is named and left out, and the exit code is then 1.
    --exist-ok continues an interrupted run.
    """
    from seresnet.cli.progress import ImageProgress
    from seresnet.data.decode import pixel_limit
    from seresnet.data.open_dataset import open_splits
    from seresnet.data.pack import pack as write
    from seresnet.data.parallel import default_workers

    max_pixels = pixel_limit(max_megapixels)
    threads = default_workers() if workers is None else workers
    splits = open_splits(data, offline or None)
    with ImageProgress(bar=True, count=lambda: sum(len(images.samples) for images in splits.values())) as progress:
        packed = write(splits, out, size, shard_size, threads, exist_ok, progress.advance, max_pixels)
    print(progress.summary(), file=sys.stderr)
    left_out = f", {len(packed.skipped):,} left out" if packed.skipped else ""
    shards = f"{packed.shards:,} shard{'' if packed.shards == 1 else 's'}"
    print(f"{packed.images:,} images in {shards}{left_out}\n{out}")
    return 1 if packed.skipped else 0
