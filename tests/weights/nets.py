"""Networks and files that the tests of this folder share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import seresnet
from seresnet.models.resnet import SEResNet
from seresnet.models.variants import build
from tests.networks import randomized


def small(**overrides: object) -> SEResNet:
    """Return a network of the CIFAR table with statistics that matter, its ten classes named."""
    torch.manual_seed(0)
    model = randomized(build("seresnet20", **overrides)).eval()
    model.labels = [f"kind {i}" for i in range(model.num_classes)]
    model.preprocess = seresnet.Preprocess((3, 32, 32), crop_pct=1.0).with_channels(model.in_chans)
    return model


def equal(one: nn.Module, other: nn.Module) -> bool:
    """Tell whether two networks hold the same numbers, bit for bit, under the same names."""
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def logits(model: nn.Module, size: int = 64, count: int = 2) -> Tensor:
    """Return a network's logits of fixed noise, in evaluation mode."""
    channels = next(model.parameters()).shape[1]
    x = torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return model.eval()(x)
