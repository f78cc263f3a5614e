"""The engines of torch: the fused network in channels-last memory, on the CPU or a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from seresnet.common.machine import has_bfloat16
from seresnet.common.text import one_line
from seresnet.engines.batch import check_shape, failed
from seresnet.errors import ConfigError
from seresnet.models.fuse import FusedSEResNet, fuse_network
from seresnet.models.input_sizes import input_sizes
from seresnet.models.resnet import SEResNet

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
AMPERE = (8, 0)  # compute capability of NVIDIA's first GPUs that compute in bfloat16


class TorchEngine:
    """Run a `SEResNet` with torch, operation by operation, fused.

    It runs on ``device`` ("cpu", "cuda", "cuda:1", ...; None: a GPU where there is one). With the ``precision``
    "bfloat16" or "float16" (the latter on GPUs only) the convolutions compute in that format, while pooling and
    classifier stay in float32; "float32" on a GPU follows torch's own TF32 switches; "auto" is bfloat16 where the
    device computes in it by itself, else float32. The model that is given stays as it is. Raises ConfigError for a
    device or a precision that is not there, and where a batch does not fit into memory.
    """

    name = "torch"

    def __init__(self, model: SEResNet, device: str | None = None, precision: str = "auto") -> None:
        self._device = torch_device(device)
        self._dtype = number_format(precision, self._device)
        self.device = str(self._device)
        self.precision = str(self._dtype).removeprefix("torch.")
        self.preferred_batch = 256 if self._device.type == "cuda" else 32
        form = model if isinstance(model, FusedSEResNet) else fuse_network(model)
        self._sizes = input_sizes(form)
        self.model = form.to(self._device)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for module in self.model.modules():
            if isinstance(module, nn.Conv2d):
                module.to(self._dtype)

    def logits(self, x: NDArray[np.float32] | Tensor) -> NDArray[np.float32]:
        """Return logits: float32 (N, C, H, W) -> float32 (N, num_classes)."""
        return self._run(self._logits, x, self.model.num_classes or self.model.head_hidden_size)

    def embed(self, x: NDArray[np.float32] | Tensor) -> NDArray[np.float32]:
        """Return pooled features: float32 (N, C, H, W) -> float32 (N, head_hidden_size)."""
        return self._run(self._pooled, x, self.model.head_hidden_size)

    def map(self, batches: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        """Yield the logits of each batch, one after the other."""
        return map(self.logits, batches)

    def describe(self) -> str:
        """Return engine, device and precision in a few words."""
        if self._device.type == "cuda":
            where = f"{self.device} ({torch.cuda.get_device_name(self._device)})"
        else:
            threads = torch.get_num_threads()
            where = f"{self.device} ({threads} thread{'s' if threads > 1 else ''})"
        return f"{self.name} {torch.__version__}, {where}, {self.precision}"

    def _pooled(self, x: Tensor) -> Tensor:
        features = self.model.forward_features(x).float()
        return self.model.forward_head(features, pre_logits=True)

    def _logits(self, x: Tensor) -> Tensor:
        return self.model.fc(self._pooled(x))

    def _run(
        self, forward: Callable[[Tensor], Tensor], x: NDArray[np.float32] | Tensor, width: int
    ) -> NDArray[np.float32]:
        batch = torch.as_tensor(x)
        check_shape(batch.shape, self.model.in_chans, self._sizes)
        if len(batch) == 0:
            return np.empty((0, width), np.float32)
        try:
            with torch.inference_mode():
                moved = batch.to(self._device, self._dtype, memory_format=torch.channels_last)
                return forward(moved).cpu().numpy()
        except torch.OutOfMemoryError:
            raise ConfigError(
                f"a batch of {len(batch)} does not fit on {self.device}: use a smaller batch size"
            ) from None
        except RuntimeError as error:
            raise failed(batch.shape) from error


class CompiledTorchEngine(TorchEngine):
    """Run a `SEResNet` with ``torch.compile``: as `TorchEngine`, but the first batch waits for its compilation.

    That takes up to a minute, and a C++ compiler (on GPUs, Triton). A compilation serves any number of images, and any
    size; but single images, and pictures that are not square, have one of their own. Raises ConfigError where the
    compiler is missing.
    """

    name = "torch-compile"

    def __init__(self, model: SEResNet, device: str | None = None, precision: str = "auto") -> None:
        super().__init__(model, device, precision)
        options: dict[str, Any] = {
            "freezing": self._device.type == "cpu"
        }  # weights become constants, laid out for the processor
        self._logits = torch.compile(super()._logits, dynamic=True, options=options)  # type: ignore[method-assign]
        self._pooled = torch.compile(super()._pooled, dynamic=True, options=options)  # type: ignore[method-assign]

    def _run(
        self, forward: Callable[[Tensor], Tensor], x: NDArray[np.float32] | Tensor, width: int
    ) -> NDArray[np.float32]:
        try:
            return super()._run(forward, x, width)
        except ConfigError as error:
            if isinstance(error.__cause__, torch._dynamo.exc.BackendCompilerFailed):
                reason = one_line(error.__cause__.inner_exception)
                raise ConfigError(f"torch.compile failed ({reason}): install g++, or use engine torch") from error
            raise


def torch_device(name: str | None) -> torch.device:
    """Return the device by its name, tried with one allocation; None takes a GPU where there is one."""
    if name is None or name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError):
        raise ConfigError(f"device {name!r} cannot be used here: use {' or '.join(devices())}") from None
    return device


def devices() -> list[str]:
    """Return names of the devices that are there."""
    return ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]


def number_format(precision: str, device: torch.device) -> torch.dtype:
    """Return the format of the convolutions for a precision by its name, "auto" among them."""
    if precision == "auto":
        return torch.bfloat16 if computes_in_bfloat16(device) else torch.float32
    if precision not in PRECISIONS:
        raise ConfigError(f"precision {precision!r} is unknown: use auto, {', '.join(PRECISIONS)}")
    if precision == "float16" and device.type == "cpu":
        raise ConfigError("precision float16 needs a GPU: use bfloat16 or float32 on the CPU")
    return PRECISIONS[precision]


def computes_in_bfloat16(device: torch.device) -> bool:
    """Return whether a device supports bfloat16 natively."""
    if device.type == "cuda":
        return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= AMPERE
    return device.type == "cpu" and has_bfloat16()
