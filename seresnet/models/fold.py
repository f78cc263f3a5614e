"""Batch norms folded into the convolutions before them: the same function in evaluation, by fewer operations."""

from __future__ import annotations

import copy
from itertools import pairwise

from torch import Tensor, nn


def folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return weight and bias, float64, of the one convolution that does what ``norm(conv(x))`` does in evaluation."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight.detach().cpu().double() / (norm.running_var.cpu().double() + norm.eps).sqrt()
    bias = norm.bias.detach().cpu().double() - norm.running_mean.cpu().double() * scale
    return conv.weight.detach().cpu().double() * scale[:, None, None, None], bias


def with_tensors(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """Return a convolution of ``conv``'s stride, padding, dtype and device with other tensors."""
    like = conv.weight
    new = copy.deepcopy(conv)
    new.weight = nn.Parameter(weight.to(like.device, like.dtype), requires_grad=False)
    new.bias = nn.Parameter(bias.to(like.device, like.dtype), requires_grad=False)
    new.in_channels = weight.shape[1] * conv.groups
    return new


def fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """Return the one convolution that does what ``norm(conv(x))`` does in evaluation."""
    return with_tensors(conv, *folded(conv, norm))


def folded_stem(stem: nn.Module, norm: nn.BatchNorm2d) -> nn.Module:
    """Return the stem's convolutions with all of its batch norms folded."""
    if isinstance(stem, nn.Conv2d):
        return fold(stem, norm)
    layers = [*stem.children(), norm]
    new: list[nn.Module] = []
    for layer, following in pairwise(layers):
        if isinstance(layer, nn.Conv2d):
            assert isinstance(following, nn.BatchNorm2d)
            new.append(fold(layer, following))
        elif isinstance(layer, nn.ReLU):
            new.append(nn.ReLU(inplace=True))
    return nn.Sequential(*new)
