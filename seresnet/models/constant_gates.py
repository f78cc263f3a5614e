"""Excitations replaced by constant gates, which fold into the batch norm before them: exact, and no longer computed.

A block computes ``relu(s * norm(u) + shortcut)``. Where ``s`` does not depend on the image, ``s * norm(u)`` is the same
batch norm with weight and bias times ``s``. That also holds behind a ReLU, because ``s`` is positive.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from seresnet.models.blocks import Block
from seresnet.models.resnet import SEResNet


@torch.no_grad()
def fold_gates(network: SEResNet, gates: Mapping[str, Tensor]) -> SEResNet:
    """Return a copy of a network whose excitation in some blocks is a constant, folded into the batch norm before it.

    - `gates`: of each such block by its name (``layer1.0``), ``(C,)`` and positive.

    The configuration of the copy has these blocks in ``blocks_without_se``.
    """
    folded = copy.deepcopy(network)
    for name, gate in gates.items():
        block = folded.get_submodule(name)
        assert isinstance(block, Block)
        norm = block.last_norm()
        for parameter in (norm.weight, norm.bias):
            parameter.copy_(parameter.double() * gate.to(parameter.device, torch.float64))
        block.se = nn.Identity()
    without = {*folded.cfg.blocks_without_se, *gates}
    names = [name for name, module in folded.named_modules() if isinstance(module, Block)]
    folded.cfg = replace(folded.cfg, blocks_without_se=tuple(name for name in names if name in without))
    return folded
