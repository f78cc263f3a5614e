"""The device and the precision of a run."""

from __future__ import annotations

import os
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs
from numpy.typing import NDArray
from torch import Tensor

from seresnet.common.machine import usable_cores
from seresnet.errors import ConfigError
from seresnet.training.config import TrainConfig
from seresnet.training.ranks import COLLECTIVE_TIMEOUT

PRECISIONS = {"bf16": "bfloat16", "no": "float32"}  # accelerate's names and ours


def create_accelerator(config: TrainConfig, device: str | None) -> Accelerator:
    """Return the accelerator of this rank, with the precision resolved. Raises ConfigError for a device that fails."""
    cpu = runs_on_cpu(device)
    precision = config.precision
    if precision == "auto":
        precision = "bfloat16" if has_native_bfloat16(cpu) else "float32"
    if cpu and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))  # torch knows no quota of a container
    if not torch.distributed.is_initialized():
        # accelerate keeps device and precision of the first run of a process, and has no public call to forget them.
        AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(
        cpu=cpu,
        mixed_precision="bf16" if precision == "bfloat16" else "no",
        kwargs_handlers=[InitProcessGroupKwargs(timeout=COLLECTIVE_TIMEOUT)],
    )


def runs_on_cpu(name: str | None) -> bool:
    """Return whether ``--device`` means the CPU. Raises ConfigError where there is no such device."""
    if name is None or name == "auto":
        return not torch.cuda.is_available()
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device {name}: training runs on cpu or cuda")
    if device.type == "cpu":
        return True
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus == 0:
        raise ConfigError(f"--device {name}: torch finds no GPU on this machine; leave --device out")
    if device.index is not None:
        if device.index >= gpus:
            raise ConfigError(f"--device {name}: there are {gpus} GPUs here, from cuda:0 to cuda:{gpus - 1}")
        torch.cuda.set_device(device)
    return False


def has_native_bfloat16(cpu: bool) -> bool:
    """Return whether the hardware multiplies bfloat16 itself; V100 and T4 only emulate it, slower than float32."""
    return torch.cpu._is_avx512_bf16_supported() if cpu else torch.cuda.is_bf16_supported(including_emulation=False)


def to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """Return an array as a tensor on the device, without waiting for the copy."""
    tensor = torch.from_numpy(array)
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def device_name(accelerator: Accelerator) -> str:
    """Return the device as messages name it: all ranks on a CPU are on "cpu"."""
    return "cpu" if accelerator.device.type == "cpu" else str(accelerator.device)
