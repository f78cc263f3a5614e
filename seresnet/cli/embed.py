"""``seresnet embed``: the pooled features of images, in a file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from seresnet.cli.arguments import STDIN
from seresnet.errors import ConfigError

if TYPE_CHECKING:
    from seresnet.inference.prediction import Embedded


def embed(
    *sources: Annotated[
        str,
        Parameter(help="Image files, folders (searched recursively), globs, http(s) URLs, or - for a list on stdin."),
    ],
    out: Annotated[Path, Parameter(help="The file to write: .parquet or .npz.")],
    model: Annotated[
        str | None, Parameter(help="A name (see seresnet models), a directory, a file, or hf-hub:user/repo.")
    ] = None,
    normalize: Annotated[bool, Parameter(help="Divide each embedding by its length.")] = False,
    batch_size: Annotated[int | None, Parameter(help="Batch size (default: chosen for the device).")] = None,
    device: Annotated[str | None, Parameter(help="cpu, cuda, cuda:1 (default: a GPU if there is one).")] = None,
    engine: Annotated[
        Literal["auto", "openvino", "onnxruntime", "torch", "torch-compile"],
        Parameter(help="Inference engine (auto: openvino on CPUs, torch on GPUs)."),
    ] = "auto",
    precision: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        Parameter(help="Numeric precision (auto: the fastest that needs no calibration)."),
    ] = "auto",
    workers: Annotated[int | None, Parameter(help="Threads that decode images (default: one per core).")] = None,
    offline: Annotated[bool, Parameter(help="Do not access the network.")] = False,
) -> int:
    """Write the embedding (pooled features) of each image into a file, for search and for other programs.

    The columns are path, embedding and error. Memory use is constant; the file appears when it is complete. The exit
    code is 1 if an image could not be read.
    """
    from seresnet.cli.output import check_out
    from seresnet.cli.progress import ImageProgress, announce
    from seresnet.inference.classifier import DEFAULT_MODEL, load
    from seresnet.inference.images import each_source
    from seresnet.retrieval.vectors import check_name, write_vectors

    if not sources:
        raise ConfigError("no images: give files, folders or globs, or - for a list of files on stdin")
    given = ["-" if source == STDIN else source for source in sources]
    check_name(out)
    check_out(out, "--out")
    clf = load(model or DEFAULT_MODEL, engine=engine, precision=precision, device=device, offline=offline or None)
    announce(clf, model)
    countable = None if "-" in given else lambda: sum(1 for _ in each_source(given, True))

    with ImageProgress(bar=True, count=countable) as progress:

        def rows() -> Iterator[Embedded]:
            for batch in clf.embedded(each_source(given, offline or None, sys.stdin), batch_size, workers):
                for row in batch:
                    progress.advance(row.path, row.error)
                    yield row

        write_vectors(out, rows(), clf.model_name, normalize)
    print(progress.summary(), file=sys.stderr)
    print(f"embeddings: {out}", file=sys.stderr)
    return 1 if progress.unreadable else 0
