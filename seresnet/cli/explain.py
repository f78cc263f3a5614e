"""``seresnet explain``: what a prediction depends on, as pictures, numbers and a page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from seresnet.cli.arguments import STDIN
from seresnet.common.text import printable
from seresnet.errors import ConfigError, ImageError


def explain(
    *sources: Annotated[
        str,
        Parameter(help="Image files, folders (searched recursively), globs, http(s) URLs, or - for a list on stdin."),
    ],
    out: Annotated[Path, Parameter(help="Folder for the pictures, the numbers and the page; nothing is overwritten.")],
    model: Annotated[
        str | None, Parameter(help="A name (see seresnet models), a directory, a file, or hf-hub:user/repo.")
    ] = None,
    label: Annotated[str | None, Parameter(help="The class to explain (default: the most probable one).")] = None,
    device: Annotated[str | None, Parameter(help="cpu, cuda, cuda:1 (default: a GPU if there is one).")] = None,
    offline: Annotated[bool, Parameter(help="Do not access the network.")] = False,
) -> int:
    """Explain predictions: the heat map of each image (Grad-CAM), the gates of each block, the channels that stand out.

    Writes NAME.png and NAME.json for each image, and one index.html. A row on stdout has the image, the class, its
    probability and the picture. The exit code is 1 if an image could not be read.
    """
    from seresnet.cli.progress import ImageProgress, or_default
    from seresnet.cli.streams import whole_row
    from seresnet.engines.torch.engine import torch_device
    from seresnet.explanation.explain import Explainer
    from seresnet.explanation.report import ExplanationReport
    from seresnet.inference.images import each_source, path_of
    from seresnet.inference.load import network_of_name

    if not sources:
        raise ConfigError("no images: give files, folders or globs, or - for a list of files on stdin")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file: give a folder")
    given = ["-" if source == STDIN else source for source in sources]
    name = or_default(model)
    explainer = Explainer(network_of_name(name, offline or None), device=str(torch_device(device)))
    target = None if label is None else explainer.index_of(label)
    images = list(each_source(given, offline or None, sys.stdin))
    with (
        ImageProgress(bar=not sys.stdout.isatty(), count=lambda: len(images)) as progress,
        ExplanationReport(out, name) as report,
    ):
        for image in images:
            path, error = path_of(image) or "image", None
            try:
                explanation = explainer.explain(image, target)
                written = report.put(path, explanation)
                with whole_row():
                    number = f"{100 * explanation.probability:5.1f} %"
                    print(f"{printable(path)}  {printable(explanation.label)}  {number}  {printable(str(written))}")
            except ImageError as reason:
                error = str(reason)
            progress.advance(path, error)
    print(progress.summary(), file=sys.stderr)
    if report.page is not None:
        print(f"page: {printable(str(report.page))}", file=sys.stderr)
    return 1 if progress.unreadable else 0
