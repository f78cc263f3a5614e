"""Networks without memory for their weights, for tests that need names and shapes alone or bring the values."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from seresnet.weights.identify import LeaveUninitialised


@contextlib.contextmanager
def on_meta_device() -> Iterator[None]:
    """Make tensors on the meta device, without initial values: drawing them there takes seconds for each network."""
    with torch.device("meta"), LeaveUninitialised():
        yield
