"""The same random network twice, ours and timm's, on shared tensors: the ground of the parity tests."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from seresnet.models.resnet import SEResNet
from seresnet.models.variants import VARIANTS, build
from tests.meta import on_meta_device
from tests.timm_import import timm

ARCHS = [arch for arch in VARIANTS if timm.is_model(arch)]

PERIOD = 65537  # weights repeat after so many, which saves drawing them; a prime, so that no two filters are the same

DEEP_STEM = {
    "conv1": "conv1.0",
    "bn1": "conv1.1",
    "conv2": "conv1.3",
    "bn2": "conv1.4",
    "conv3": "conv1.6",
    "bn3": "bn1",
}


def our_key(key: str, deep_stem: bool) -> str:
    """Return our name of a tensor that timm's legacy networks call ``key``; other names stay as they are."""
    key = key.replace("se_module.", "se.").replace("last_linear.", "fc.")
    if match := re.fullmatch(r"layer0\.(\w+)\.(\w+)", key):
        module, tensor = match.groups()
        return f"{DEEP_STEM[module] if deep_stem else module}.{tensor}"
    return key


def randomise(name: str, like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a tensor so that everything matters: no norm is 0 or 1, no bias is 0, scales neither die nor grow."""
    if name.endswith("num_batches_tracked"):
        return torch.tensor(3)
    if like.ndim >= 2:  # convolutions and linear layers: variance 1 / fan_in, uniform
        bound = (3.0 / like[0].numel()) ** 0.5
        drawn = torch.empty(min(like.numel(), PERIOD)).uniform_(-bound, bound, generator=generator)
        return drawn.repeat(-(-like.numel() // PERIOD))[: like.numel()].view(like.shape)
    out = torch.empty(like.shape)
    if name.endswith("running_var"):
        return out.uniform_(0.6, 1.4, generator=generator)
    if name.endswith("weight"):
        return out.uniform_(0.5, 1.5, generator=generator)
    return out.uniform_(-0.1, 0.1, generator=generator)


def make_pair(arch: str, seed: int = 0, **overrides: object) -> tuple[SEResNet, nn.Module]:
    """Return our network and timm's with the same parameters, both in evaluation mode, float32."""
    with on_meta_device():
        ours, theirs = build(arch, **overrides), timm.create_model(arch, **overrides)
    generator = torch.Generator().manual_seed(seed)
    state = {name: randomise(name, tensor, generator) for name, tensor in theirs.state_dict().items()}
    theirs.load_state_dict(state, assign=True)
    deep_stem = isinstance(ours.conv1, nn.Sequential)
    legacy = ours.cfg.lineage == "legacy"
    renamed = {our_key(k, deep_stem) if legacy else k: v for k, v in state.items()}
    buffers = {name for name, _ in ours.named_buffers()}  # training moves them: each network has its own
    ours.load_state_dict({k: v.clone() if k in buffers else v for k, v in renamed.items()}, assign=True)
    return ours.eval(), theirs.eval()


def difference(a: Tensor, b: Tensor) -> float:
    """Return the largest absolute difference over the largest absolute value; shapes must be equal."""
    assert a.shape == b.shape, (a.shape, b.shape)
    assert a.isfinite().all()
    return ((a - b).abs().max() / b.abs().max()).item()


def images(count: int, height: int, width: int, seed: int = 1) -> Tensor:
    """Return ``(count, 3, height, width)`` noise of several scales and contrasts, so that pooled features differ."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 3, 3, generator=generator)
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
    contrast = torch.linspace(0.5, 2.0, count)[:, None, None, None]
    return contrast * (2.0 * smooth + torch.randn(count, 3, height, width, generator=generator))
