"""A mode in which an operation on tensors of two devices fails, as it does on a GPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

COPIES = ("aten._to_copy.default", "aten.copy_.default")  # what moves a tensor


class OneDevice(TorchDispatchMode):
    """Fail on an operation whose tensors lie on the CPU and on the meta device, which torch itself often allows.

    Numbers, tensors of no dimension on the CPU, may go with any device, as on GPUs. ``seen`` counts operations.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        devices = {t.device.type for t in tensors if t.dim() or t.device.type != "cpu"}
        if len(devices) > 1 and str(function) not in COPIES:
            raise AssertionError(f"{function} has tensors on {' and '.join(sorted(devices))}")
        self.seen += "meta" in devices
        return function(*args, **(kwargs or {}))


META = torch.device("meta")
