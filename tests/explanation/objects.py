"""Pictures of a coloured square on noise, and a small network that tells its colour, trained in a few seconds."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from seresnet.data.preprocess import Preprocess
from seresnet.models.config import SEResNetConfig
from seresnet.models.resnet import SEResNet

COLOURS = ((230, 40, 40), (40, 200, 60), (50, 80, 240))
SIDE = 10  # of the square, in pixels


def picture(
    rng: np.random.Generator, target: int, width: int = 32, height: int = 32, at=None
) -> tuple[Image.Image, tuple[int, int]]:
    """Return a picture with a square, and the (left, top) of the square."""
    pixels = rng.integers(90, 150, (height, width, 3))
    left, top = at or (int(rng.integers(0, width - SIDE + 1)), int(rng.integers(0, height - SIDE + 1)))
    pixels[top : top + SIDE, left : left + SIDE] = COLOURS[target]
    return Image.fromarray(pixels.astype(np.uint8)), (left, top)


def trained() -> SEResNet:
    """Return a network that tells the colour of the square."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    cfg = SEResNetConfig(
        layers=(1, 1, 1),
        channels=(8, 16, 16),
        block="basic",
        stem="conv3",
        stem_width=8,
        stem_pool="none",
        num_classes=3,
    )
    network = SEResNet(cfg)
    network.labels, network.preprocess = ["red", "green", "blue"], Preprocess((3, 32, 32), crop_pct=1.0)
    targets = np.arange(192) % 3
    x = torch.from_numpy(np.stack([network.preprocess.array(picture(rng, t)[0]) for t in targets]))
    y = torch.from_numpy(targets)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-2)
    for step in range(32):
        batch = torch.arange(24 * step, 24 * step + 24) % len(x)
        optimizer.zero_grad()
        F.cross_entropy(network(x[batch]), y[batch]).backward()
        optimizer.step()
    return network.eval()
