"""Which excitations earn their cost: accuracy with the gates of one block after the other set to their mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from seresnet.data.names import few
from seresnet.errors import ConfigError, DataError
from seresnet.explanation.excitations import Batches, Excitations
from seresnet.explanation.gates import gated_blocks
from seresnet.models.constant_gates import fold_gates
from seresnet.models.resnet import SEResNet


@dataclass(frozen=True)
class Ablated:
    """A network with constant gates in ``block``, against the network as it is, on the same images.

    - `loss`: of top-1 accuracy, as a fraction; below 0 where it is higher without.
    - `standard_error`: of the loss, from the differences image by image.
    - `changed`: the fraction of images that get another class.
    """

    block: str
    accuracy: float
    loss: float
    standard_error: float
    changed: float


@dataclass(frozen=True)
class Ablation:
    """The accuracy of a network on ``images``, and with each block ablated in turn, in the order of the blocks."""

    images: int
    accuracy: float
    blocks: tuple[Ablated, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"images": self.images, "accuracy": self.accuracy, "blocks": [vars(block) for block in self.blocks]}


@contextmanager
def constant_gates(network: SEResNet, gates: Mapping[str, Tensor]) -> Iterator[None]:
    """Let the excitations of blocks, by name, give these gates (C,) for every image while in this block."""
    blocks = gated_blocks(network)
    with ExitStack() as stack:
        for name, gate in gates.items():
            value = gate[None, :, None, None]  # (C,) -> (1, C, 1, 1)

            def replaced(sigmoid: nn.Module, given: Any, out: Tensor, value: Tensor = value) -> Tensor:
                return value.to(out).expand_as(out)

            stack.callback(blocks[name][1].sigmoid.register_forward_hook(replaced).remove)
        yield


@torch.no_grad()
def ablate(network: SEResNet, batches: Batches, targets: Sequence[int], found: Excitations) -> Ablation:
    """Return the accuracy of a network in evaluation mode with each block's gates set to their mean, one at a time.

    - `batches`: images (N, C, H, W) and their classes in the data (N,).
    - `targets`: the network's class of each class in the data.

    Raises DataError where there are no images.
    """
    gates = {name: torch.from_numpy(gate).float() for name, gate in found.mean_gates().items()}
    classes, device = np.array(targets), next(network.parameters()).device
    right: list[NDArray[np.bool_]] = []  # (1 + blocks, N): of the network as it is, and of each ablation
    changed: list[NDArray[np.bool_]] = []
    for pixels, groups in batches:
        predicted = _predictions(network, torch.from_numpy(pixels).to(device), gates)
        right.append(predicted == classes[groups])
        changed.append(predicted != predicted[0])
    if not right:
        raise DataError("none of the images can be read: give labelled images")
    correct, other = np.concatenate(right, axis=1), np.concatenate(changed, axis=1)
    count = correct.shape[1]
    blocks = []
    for name, row, differs in zip(gates, correct[1:], other[1:], strict=True):
        lost = correct[0].astype(float) - row
        error = float(lost.std(ddof=1) / np.sqrt(count)) if count > 1 else float("nan")
        blocks.append(Ablated(name, float(row.mean()), float(lost.mean()), error, float(differs.mean())))
    return Ablation(count, float(correct[0].mean()), tuple(blocks))


def _predictions(network: SEResNet, x: Tensor, gates: Mapping[str, Tensor]) -> NDArray[np.int64]:
    """Return the classes (1 + blocks, N) of the network as it is, and with each block's gates constant.

    What comes before the ablated block is computed once.
    """
    names = [f"layer{i}.{j}" for i, stage in enumerate(network.stages, start=1) for j in range(len(stage))]
    blocks = [block for stage in network.stages for block in stage]
    inputs = []
    x = network.maxpool(network.forward_stem(x))
    for block in blocks:
        inputs.append(x)
        x = block(x)
    rows = [network.forward_head(x).argmax(1)]
    for name, gate in gates.items():
        place = names.index(name)
        with constant_gates(network, {name: gate}):
            y = inputs[place]
            for block in blocks[place:]:
                y = block(y)
            rows.append(network.forward_head(y).argmax(1))
    return torch.stack(rows).cpu().numpy()


def chosen_blocks(network: SEResNet, given: str) -> list[str]:
    """Return the names of blocks in a list with commas. Raises ConfigError for one that has no excitation."""
    there = list(gated_blocks(network))
    names = [name.strip() for name in given.split(",") if name.strip()]
    wrong = [name for name in names if name not in there]
    if wrong or not names:
        what = f"{few(wrong)}: no such block with an excitation" if wrong else "no blocks are given"
        raise ConfigError(f"{what}; there are {', '.join(there)}")
    return [name for name in there if name in names]


def fold_excitations(network: SEResNet, found: Excitations, names: Sequence[str]) -> SEResNet:
    """Return a copy of a network with the mean gates of blocks folded in, see `fold_gates`."""
    gates = found.mean_gates()
    return fold_gates(network, {name: torch.from_numpy(gates[name]) for name in names})
