"""Small pairs of our network and timm's, in training and in float64: a difference is a fault, not rounding."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.models.pairs import difference, images, make_pair

Pair = tuple[nn.Module, nn.Module]
ARCHS = pytest.mark.parametrize("arch", ["seresnet18", "seresnet50", "seresnetaa50d"])
X = images(3, 64, 64).double()


def pair(arch: str = "seresnet18") -> Pair:
    """Return our network and timm's on the same tensors, in training."""
    ours, theirs = make_pair(arch, layers=(1, 1, 1, 1), channels=(8, 8, 16, 16), num_classes=7)
    return ours.double().train(), theirs.double().train()


def blocks(model: nn.Module) -> list[nn.Module]:
    return [model.get_submodule(f"layer{i}.0") for i in range(1, 5)]


def loss(model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    out = model(x)
    return (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out).sin()).sum()


def assert_same_step(models: Pair, x: Tensor = X, tolerance: float = 1e-9) -> None:
    """Assert that gradients and statistics are the same after a step's forward and backward pass."""
    for model in models:
        model.zero_grad()
        loss(model, x).backward()
    ours, theirs = models
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        assert p.grad is None or q.grad.abs().max() < 1e-12 or difference(p.grad, q.grad) <= tolerance, name
    for (name, a), b in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12, msg=name)
