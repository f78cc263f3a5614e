"""What the engines have in common: the checks of a batch and their messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from seresnet.errors import ConfigError
from seresnet.models.input_sizes import InputSizes

if TYPE_CHECKING:
    from torch import Tensor

Batch = NDArray[np.float32]


def checked(x: Batch | Tensor, channels: int, sizes: InputSizes) -> Batch:
    """Return a batch (N, channels, H, W), H and W among ``sizes``, as contiguous float32. Raises ConfigError."""
    batch = x if isinstance(x, np.ndarray) else x.detach().cpu().float().numpy()
    check_shape(batch.shape, channels, sizes)
    return np.ascontiguousarray(batch, np.float32)


def check_shape(shape: Sequence[int], channels: int, sizes: InputSizes) -> None:
    """Raise ConfigError for a batch that is not (N, channels, H, W), H and W among ``sizes``.

    An engine would not always fail on another size: where torch refuses to add extents of 1 and 2, ONNX repeats one.
    """
    if len(shape) != 4 or shape[1] != channels:
        raise ConfigError(f"a batch must be (N, {channels}, H, W), not {tuple(shape)}")
    if min(shape[2:]) < sizes.least:
        raise ConfigError(f"images of {pixels(shape)} are too small for this network: use {sizes.least} or more")
    if not all(extent in sizes for extent in shape[2:]):
        height, width = (n if n in sizes else -(-n // sizes.period) * sizes.period for n in shape[2:])
        raise ConfigError(
            f"images of {pixels(shape)} do not fit this anti-aliased network: use multiples of {sizes.period}, "
            f"such as {height} x {width}"
        )


def failed(shape: Sequence[int]) -> ConfigError:
    """Return the error for a batch that an engine could not compute: for its size, or for want of memory."""
    count = f"{shape[0]} image{'s' if shape[0] > 1 else ''}"
    return ConfigError(
        f"{count} of {pixels(shape)}: the network cannot take them; use another image size or a smaller batch"
    )


def pixels(shape: Sequence[int]) -> str:
    """Return height and width of a batch's images as text."""
    return f"{shape[2]} x {shape[3]} pixels"
