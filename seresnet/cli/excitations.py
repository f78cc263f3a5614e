"""``seresnet excitations``: what the gates of a network do on a data set."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from seresnet.common.text import printable
from seresnet.errors import ConfigError

if TYPE_CHECKING:
    from seresnet.data.dataset import ImageSet
    from seresnet.explanation.ablation import Ablation
    from seresnet.explanation.excitations import Excitations
    from seresnet.models.resnet import SEResNet


def excitations(
    data: Annotated[str, Parameter(help="Labelled images, as eval takes them, or a folder of images.")],
    /,
    *,
    out: Annotated[Path, Parameter(help="Folder for the tables, the plots and the page.")],
    model: Annotated[
        str | None, Parameter(help="A name (see seresnet models), a directory, a file, or hf-hub:user/repo.")
    ] = None,
    ablate: Annotated[bool, Parameter(help="Also measure the accuracy with each block's gates constant.")] = False,
    fold: Annotated[
        str | None, Parameter(help="Blocks (layer1.1,layer3.1) whose mean gates are folded into the network.")
    ] = None,
    save: Annotated[Path | None, Parameter(help="With --fold: folder for the network with them folded.")] = None,
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
    (.json, .npz). --ablate sets the gates of one block after the other to their mean over DATA: which excitations earn
    their cost? --fold writes a network in which those of some blocks are constant and cost nothing, and measures it.
    The exit code is 1 if an image could not be read.
    """
    from seresnet.cli.progress import ImageProgress, or_default
    from seresnet.common.files import check_output_folder
    from seresnet.engines.torch.engine import torch_device
    from seresnet.explanation.ablation import ablate as measure_ablation
    from seresnet.explanation.ablation import chosen_blocks
    from seresnet.explanation.excitation_report import write_excitations
    from seresnet.explanation.excitations import study
    from seresnet.inference.image_groups import GroupedBatches, open_groups
    from seresnet.inference.load import network_of_name, transform_of

    check_output_folder(out, exist_ok)
    _check(fold, save, exist_ok)
    name = or_default(model)
    images = open_groups(data, offline or None, split)
    network = network_of_name(name, offline or None).to(torch_device(device)).eval()
    blocks = [] if fold is None else chosen_blocks(network, fold)
    targets = _targets(network, images, ablate, bool(blocks))
    with ImageProgress(bar=True, count=lambda: len(images.samples)) as progress:
        batches = GroupedBatches(images, transform_of(network), workers, progress=progress.advance)
        found = study(network, batches, images.classes)
    print(progress.summary(), file=sys.stderr)
    ablation = None
    if ablate:
        with ImageProgress(bar=True, count=lambda: len(images.samples)) as second:
            batches.progress = lambda path, error: second.advance(path, None)  # what cannot be read was named
            ablation = measure_ablation(network, batches, targets, found)
        print(f"ablation: {second.summary()}", file=sys.stderr)
    folded = None
    if save is not None:
        labelled = images if targets else None
        folded = _fold(network, found, blocks, save, name, labelled, device, workers, offline or None)
    page = write_excitations(found, out, name, str(images), ablation, {} if folded is None else {"folded": folded})
    _show(found)
    if ablation is not None:
        _show_ablation(ablation)
    if folded is not None:
        _show_folded(folded)
    print(f"page: {printable(str(page))}", file=sys.stderr)
    return 1 if progress.unreadable else 0


def _check(fold: str | None, save: Path | None, exist_ok: bool) -> None:
    """Raise ConfigError for flags that do not go together, before anything is loaded."""
    from seresnet.weights.derived import check_model_folder

    if (fold is None) != (save is None):
        raise ConfigError("--fold BLOCKS and --save DIR go together: give both")
    if save is not None:
        check_model_folder(save, exist_ok)


def _targets(network: SEResNet, images: ImageSet, ablate: bool, fold: bool) -> list[int]:
    """Return the model's class of each class of the data; none where there are none and none are needed."""
    from seresnet.data.classes import match_classes
    from seresnet.inference.image_groups import ALL
    from seresnet.inference.load import class_names

    if not (ablate or fold):
        return []
    if images.classes == (ALL,) and ALL not in network.labels:
        if ablate:
            raise ConfigError(f"--ablate measures accuracy: {printable(str(images))} has no folders of classes")
        print("note: images without classes: the accuracy of the folded network is not measured", file=sys.stderr)
        return []
    labels = class_names(network.labels, network.num_classes)
    indices, notes = match_classes(images.classes, labels, network.label_ids)
    for note in notes:
        print(f"note: {printable(note)}", file=sys.stderr)
    return list(indices)


def _fold(
    network: SEResNet,
    found: Excitations,
    blocks: list[str],
    save: Path,
    name: str,
    images: ImageSet | None,
    device: str | None,
    workers: int | None,
    offline: bool | None,
) -> dict[str, Any]:
    """Save the network with the mean gates of blocks folded in, and return what was measured of it."""
    from seresnet.evaluation.folded import measure_folded
    from seresnet.explanation.ablation import fold_excitations
    from seresnet.weights.derived import save_into

    save_into(save, fold_excitations(network, found, blocks), {}, Path(name))
    print(f"folded network: {printable(str(save))}", file=sys.stderr)
    measured = measure_folded(name, str(save), images, device, workers, offline)
    return {"blocks": blocks, "saved": str(save), **measured.to_dict()}


def _show_ablation(ablation: Ablation) -> None:
    """Print a row for each ablated block."""
    print(f"\n{ablation.images:,} images, top-1 accuracy {100 * ablation.accuracy:.2f} %; with constant gates in")
    print(f"{'block':12}{'accuracy':>10}{'lost, points':>14}{'standard error':>16}{'changed':>10}")
    for b in ablation.blocks:
        print(
            f"{b.block:12}{100 * b.accuracy:8.2f} %{100 * b.loss:14.2f}{100 * b.standard_error:16.2f}"
            f"{100 * b.changed:8.2f} %"
        )


def _show_folded(folded: dict[str, Any]) -> None:
    """Print accuracy and speed before and after."""
    print(f"\nfolded: {', '.join(folded['blocks'])}; {folded['engine']}")
    if (compared := folded["comparison"]) is not None:
        low, high = (100 * end for end in compared["difference_interval_95"])
        before, after = compared["accuracy"]
        print(
            f"top-1 accuracy {100 * before:.2f} % before, {100 * after:.2f} % after: "
            f"{100 * compared['difference']:+.2f} points (95 %: {low:+.2f} to {high:+.2f})"
        )
    for row in folded["speed"]:
        low, high = row["speedup_quartiles"]
        print(
            f"batch of {row['batch_size']}: {row['ms']:.2f} ms before, {row['folded_ms']:.2f} ms after, "
            f"{row['speedup']:.3f} times as fast (quartiles {low:.3f} to {high:.3f})"
        )


def _show(found: Excitations) -> None:
    """Print a row for each block."""
    print(f"{'block':12}{'channels':>9}{'mean gate':>11}{'moving':>9}{'saturated':>11}{'within':>9}{'between':>9}")
    for b in found.blocks:
        moving, saturated = 100 * b.moving / b.channels, 100 * b.saturated
        print(
            f"{b.name:12}{b.channels:9}{b.overall.mean():11.3f}{moving:7.0f} %{saturated:9.0f} %"
            f"{b.within:9.4f}{b.between:9.4f}"
        )
