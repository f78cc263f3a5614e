"""Import timm beside a CPU-only torch, where torchvision's compiled operators cannot load.

torchvision registers fake implementations for operators that its CUDA library would define. Skipping those
registrations is enough for timm, which uses only torchvision's Python transforms.
"""

import torch

_register_fake = torch.library.register_fake


def _skip_torchvision(op, *args, **kwargs):  # type: ignore[no-untyped-def]
    if isinstance(op, str) and op.startswith("torchvision::"):
        return lambda function: function
    return _register_fake(op, *args, **kwargs)


torch.library.register_fake = _skip_torchvision

import timm  # noqa: E402
import timm.data  # noqa: E402

__all__ = ["timm"]
