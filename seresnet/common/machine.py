"""The processor of this machine, as the operating system reports it."""

from __future__ import annotations

import os
import platform
from pathlib import Path

X86 = ("x86_64", "amd64", "i386", "i686", "x86")
VNNI = frozenset(("avx512_vnni", "avx_vnni", "amx_int8"))
CPUINFO = Path("/proc/cpuinfo")  # Linux
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
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
