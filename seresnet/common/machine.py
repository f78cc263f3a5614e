"""The processor of this machine, as the operating system reports it."""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path

X86 = ("x86_64", "amd64", "i386", "i686", "x86")
VNNI = frozenset(("avx512_vnni", "avx_vnni", "amx_int8"))
CPUINFO = Path("/proc/cpuinfo")  # Linux
CGROUPS = Path("/proc/self/cgroup")  # Linux
CGROUP_MOUNT = Path("/sys/fs/cgroup")
BFLOAT16 = frozenset(("avx512_bf16", "amx_bf16", "bf16", "svebf16"))  # x86, x86, ARM, ARM


def processor() -> tuple[str, frozenset[str]]:
    """Return the processor's name and feature flags; no flags where the operating system does not report them."""
    facts = _facts()
    flags = facts.get("flags", facts.get("features", ""))
    return facts.get("model name") or platform.processor() or platform.machine(), frozenset(flags.split())


def described_processor() -> str:
    """Return the processor's name with family and model, which make a name such as "AMD EPYC" specific."""
    facts = _facts()
    numbers = [f"{key.removeprefix('cpu ')} {facts[key]}" for key in ("cpu family", "model") if key in facts]
    name = processor()[0]
    return f"{name} ({', '.join(numbers)})" if numbers else name


def has_bfloat16() -> bool:
    """Return whether the processor is known to support bfloat16 natively."""
    return bool(processor()[1] & BFLOAT16)


def usable_cores() -> int:
    """Return the number of cores that this process may use: by its affinity, and by the CPU quota of its cgroups."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def cpu_quota(proc: Path = CGROUPS, mount: Path = CGROUP_MOUNT) -> float | None:
    """Return how many cores' worth of time the control groups of this process allow (Linux); None without a limit.

    Version 2 has ``cpu.max`` ("200000 100000": quota and period in microseconds, or "max"), version 1
    ``cpu.cfs_quota_us`` (-1: no limit) and ``cpu.cfs_period_us`` (kernel.org, "Control Group v2" and "CFS Bandwidth
    Control"). A group is limited by those above it as well. In a container the groups are often mounted as the root.
    """
    limits = []
    for controllers, group in _cgroups(proc):
        if controllers and "cpu" not in controllers.split(","):
            continue
        for root in (mount / controllers, mount / "cpu") if controllers else (mount,):
            own = root / group.lstrip("/")
            for folder in (own, *own.parents[: len(own.parts) - len(root.parts)]):
                limits += [limit for limit in (_quota_v2(folder), _quota_v1(folder)) if limit]
    return min(limits, default=None)


def _cgroups(proc: Path) -> list[tuple[str, str]]:
    """Return controllers (none in version 2) and path of each control group of this process."""
    try:
        lines = [line.split(":", 2) for line in proc.read_text().splitlines()]
    except (OSError, UnicodeDecodeError):
        return []
    return [(line[1], line[2]) for line in lines if len(line) == 3]


def _quota_v2(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _quota_v1(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        return quota / int((folder / "cpu.cfs_period_us").read_text()) if quota > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


def overflows_bytes() -> bool:
    """Return whether sums of int8 products can overflow on this processor.

    x86 without VNNI adds two products in 16 bits, which 2 * 255 * 127 overflows. If the operating system does not
    report the processor's features, it is assumed to be one of these.
    """
    return platform.machine().lower() in X86 and VNNI.isdisjoint(processor()[1])


def _facts() -> dict[str, str]:
    if not CPUINFO.exists():
        return {}
    lines = (line.partition(":") for line in CPUINFO.read_text().splitlines())
    return {key.strip().lower(): value.strip() for key, _, value in lines}
