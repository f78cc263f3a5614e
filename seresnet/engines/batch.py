"""What the engines that are not torch have in common: the checks of a batch, and what is said of one that fails."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from seresnet.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

Batch = NDArray[np.float32]


def checked(x: Batch | Tensor, channels: int, least: int) -> Batch:
    """Return a batch (N, channels, H, W), H and W at least ``least``, as contiguous float32. Raises ConfigError."""
    batch = x if isinstance(x, np.ndarray) else x.detach().cpu().float().numpy()
    if batch.ndim != 4 or batch.shape[1] != channels:
        raise ConfigError(f"a batch must be (N, {channels}, H, W), not {tuple(batch.shape)}")
    if min(batch.shape[2:]) < least:
        raise ConfigError(f"images of {pixels(batch.shape)} are too small for this network: use {least} or more")
    return np.ascontiguousarray(batch, np.float32)


def failed(shape: Sequence[int]) -> ConfigError:
    """Return the error for a batch that an engine could not compute: for its size, or for want of memory."""
    count = f"{shape[0]} image{'s' if shape[0] > 1 else ''}"
    return ConfigError(
        f"{count} of {pixels(shape)}: the network cannot take them; use another image size or a smaller batch"
    )


def pixels(shape: Sequence[int]) -> str:
    """Return height and width of a batch's images as text."""
    return f"{shape[2]} x {shape[3]} pixels"
