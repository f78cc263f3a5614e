"""What this machine is: its processor, as the operating system tells it."""

from __future__ import annotations

import os
import platform
from pathlib import Path

X86 = ("x86_64", "amd64", "i386", "i686", "x86")
VNNI = frozenset(("avx512_vnni", "avx_vnni", "amx_int8"))
CPUINFO = Path("/proc/cpuinfo")  # Linux
BFLOAT16 = frozenset(("avx512_bf16", "amx_bf16", "bf16", "svebf16"))  # x86, x86, ARM, ARM


def processor() -> tuple[str, frozenset[str]]:
    """Return the processor's name and feature flags; none where the operating system does not tell."""
    facts = _facts()
    flags = facts.get("flags", facts.get("features", ""))
    return facts.get("model name") or platform.processor() or platform.machine(), frozenset(flags.split())


def described_processor() -> str:
    """Return the processor's name with family and model, by which a name such as "AMD EPYC" becomes one of a kind."""
    facts = _facts()
    numbers = [f"{key.removeprefix('cpu ')} {facts[key]}" for key in ("cpu family", "model") if key in facts]
    name = processor()[0]
    return f"{name} ({', '.join(numbers)})" if numbers else name


def has_bfloat16() -> bool:
    """Tell whether the processor is known to multiply bfloat16 numbers by itself."""
    return bool(processor()[1] & BFLOAT16)


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def overflows_bytes() -> bool:
    """Tell whether sums of products of 8-bit numbers can overflow on this processor.

    x86 without VNNI adds two products in 16 bits, which 2 * 255 * 127 does not fit. Where the operating system does
    not tell what the processor has, it is taken to be one of these.
    """
    return platform.machine().lower() in X86 and VNNI.isdisjoint(processor()[1])


def _facts() -> dict[str, str]:
    if not CPUINFO.exists():
        return {}
    lines = (line.partition(":") for line in CPUINFO.read_text().splitlines())
    return {key.strip().lower(): value.strip() for key, _, value in lines}
