"""``seresnet excitations``: what the gates of a network do on a data set."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from seresnet.common.text import printable

if TYPE_CHECKING:
    from seresnet.explanation.excitations import Excitations


def excitations(
    data: Annotated[str, Parameter(help="Labelled images, as eval takes them, or a folder of images.")],
    /,
    *,
    out: Annotated[Path, Parameter(help="Folder for the tables, the plots and the page.")],
    model: Annotated[
        str | None, Parameter(help="A name (see seresnet models), a directory, a file, or hf-hub:user/repo.")
    ] = None,
    split: Annotated[
        str | None, Parameter(help="train, validation or test (default: test, else validation, else train).")
    ] = None,
    device: Annotated[str | None, Parameter(help="cpu, cuda, cuda:1 (default: a GPU if there is one).")] = None,
    workers: Annotated[int | None, Parameter(help="Threads that decode images (default: one per core).")] = None,
    offline: Annotated[bool, Parameter(help="Do not access the network.")] = False,
    exist_ok: Annotated[bool, Parameter(help="Overwrite the files in --out.")] = False,
) -> int:
    """Study the gates of every block by class: what is shared, what is specific, and what never moves.

    Follows section 6 of the SE paper (arXiv 1709.01507). Writes index.html, plots (.png), tables (.csv) and numbers
    (.json, .npz). The exit code is 1 if an image could not be read.
    """
    from seresnet.cli.progress import ImageProgress
    from seresnet.common.files import check_output_folder
    from seresnet.engines.torch.engine import torch_device
    from seresnet.explanation.excitation_report import write_excitations
    from seresnet.explanation.excitations import study
    from seresnet.inference.classifier import DEFAULT_MODEL
    from seresnet.inference.image_groups import GroupedBatches, open_groups
    from seresnet.inference.load import network_of_name, transform_of

    check_output_folder(out, exist_ok)
    name = model or DEFAULT_MODEL
    images = open_groups(data, offline or None, split)
    network = network_of_name(name, offline or None).to(torch_device(device)).eval()
    with ImageProgress(bar=True, count=lambda: len(images.samples)) as progress:
        batches = GroupedBatches(images, transform_of(network), workers, progress=progress.advance)
        found = study(network, batches, images.classes)
    print(progress.summary(), file=sys.stderr)
    page = write_excitations(found, out, name, str(images))
    _show(found)
    print(f"page: {printable(str(page))}", file=sys.stderr)
    return 1 if progress.unreadable else 0


def _show(found: Excitations) -> None:
    """Print a row for each block."""
    print(f"{'block':12}{'channels':>9}{'mean gate':>11}{'moving':>9}{'saturated':>11}{'within':>9}{'between':>9}")
    for b in found.blocks:
        moving, saturated = 100 * b.moving / b.channels, 100 * b.saturated
        print(
            f"{b.name:12}{b.channels:9}{b.overall.mean():11.3f}{moving:7.0f} %{saturated:9.0f} %"
            f"{b.within:9.4f}{b.between:9.4f}"
        )
