"""The gates of squeeze-and-excitation blocks: recorded while a network runs, and what they are on an average image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from seresnet.models.blocks import Block
from seresnet.models.resnet import SEResNet
from seresnet.models.squeeze_excite import SqueezeExcite


def gated_blocks(network: SEResNet) -> dict[str, tuple[Block, SqueezeExcite]]:
    """Return the blocks that have an excitation, with it, by name (``layer1.0``) and from the first to the last."""
    return {
        name: (module, module.se)
        for name, module in network.named_modules()
        if isinstance(module, Block) and isinstance(module.se, SqueezeExcite)
    }


@dataclass
class Recorded:
    """What the blocks of a network did in its last forward pass, by the name of the block."""

    gates: dict[str, Tensor] = field(default_factory=dict)  # (N, C), each between 0 and 1
    inputs: dict[str, Tensor] = field(default_factory=dict)  # (N, C, H, W), what the gates scale


@contextmanager
def record(network: SEResNet, inputs: bool = False) -> Iterator[Recorded]:
    """Record the gates of each forward pass in this block, and with ``inputs`` also what they scale."""
    recorded, handles = Recorded(), []
    for name, (_, excitation) in gated_blocks(network).items():

        def keep(se: nn.Module, given: tuple[Tensor, ...], gate: Tensor, name: str = name) -> None:
            recorded.gates[name] = gate.detach().flatten(1)  # (N, C, 1, 1) -> (N, C)

        def keep_input(se: nn.Module, given: tuple[Tensor, ...], name: str = name) -> None:
            recorded.inputs[name] = given[0].detach()

        handles.append(excitation.sigmoid.register_forward_hook(keep))
        if inputs:
            handles.append(excitation.register_forward_pre_hook(keep_input))
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def reference_gates(network: SEResNet) -> dict[str, Tensor]:
    """Return the gates ``(C,)`` of each block at the mean squeeze of the training images, by the name of the block.

    No image is needed: a batch norm shifts each channel to the mean ``bias`` over the images whose statistics it has,
    and scales it to the standard deviation ``weight``. Where a ReLU follows, the mean is that of a normal distribution
    behind a ReLU (arXiv 1502.01852 has the same assumption). The gate at the mean is not quite the mean of the gates,
    because the excitation is not linear.
    """
    gates = {}
    for name, (block, excitation) in gated_blocks(network).items():
        norm = block.last_norm()
        mean = norm.bias
        if block.relu_before_se:
            deviation = norm.weight.abs().clamp_min(1e-12)
            normal = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
            ratio = mean / deviation
            mean = mean * normal.cdf(ratio) + deviation * normal.log_prob(ratio).exp()
        gates[name] = excitation.gate(mean[None, :, None, None]).flatten()
    return gates
