"""How large a network is: parameters and multiply-accumulates, counted and not estimated."""

from __future__ import annotations

import torch
from torch import nn

from seresnet.models.resnet import SEResNet


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters, buffers not among them."""
    return sum(p.numel() for p in model.parameters())


@torch.no_grad()
def count_macs(model: SEResNet, size: tuple[int, int]) -> int:
    """Return multiply-accumulates of one forward pass of one ``(height, width)`` image, by torch's FlopCounterMode."""
    from torch.utils.flop_counter import FlopCounterMode

    device = next(model.parameters()).device
    was_training = model.training
    with FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, model.in_chans, *size, device=device))
    model.train(was_training)
    return counter.get_total_flops() // 2
