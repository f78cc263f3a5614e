"""The cores that a process may use: control groups as the kernel shows them, in files made here."""

from pathlib import Path

import pytest

from seresnet.common import machine
from seresnet.common.machine import cpu_quota, usable_cores


def groups(tmp_path: Path, lines: str, files: dict[str, str]) -> tuple[Path, Path]:
    proc, mount = tmp_path / "cgroup", tmp_path / "sys"
    proc.write_text(lines)
    mount.mkdir()
    for name, text in files.items():
        (mount / name).parent.mkdir(parents=True, exist_ok=True)
        (mount / name).write_text(text)
    return proc, mount


@pytest.mark.parametrize(
    ("lines", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2.0),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "150000 100000\n"}, 1.5),  # the parent's
        ("0::/a/b\n", {"cpu.max": "300000 100000\n"}, 3.0),  # a container sees its own group as the root
        ("0::/a\n", {"a/cpu.max": "50000 100000\n", "cpu.max": "400000 100000\n"}, 0.5),
        ("4:cpu,cpuacct:/d\n", {"cpu,cpuacct/cpu.cfs_quota_us": "9", "cpu,cpuacct/cpu.cfs_period_us": "1e5"}, None),
        ("4:cpu,cpuacct:/d\n", {"cpu/d/cpu.cfs_quota_us": "250000\n", "cpu/d/cpu.cfs_period_us": "100000\n"}, 2.5),
        ("4:cpu,cpuacct:/d\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ("4:memory:/d\n", {"memory/cpu.cfs_quota_us": "100000", "memory/cpu.cfs_period_us": "100000"}, None),
        ("nonsense\n", {"cpu.max": "1 0"}, None),
        ("0::/../..\n", {"cpu.max": "100000 100000"}, 1.0),
    ],
)
def test_the_quota_of_all_groups_above_a_process(tmp_path, lines, files, quota):
    assert cpu_quota(*groups(tmp_path, lines, files)) == quota


@pytest.mark.parametrize(("quota", "cores"), [(None, 8), (2.0, 2), (2.5, 3), (0.2, 1), (64.0, 8)])
def test_cores_follow_the_quota_and_the_affinity(monkeypatch, quota, cores):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(machine, "cpu_quota", lambda: quota)
    assert usable_cores() == cores


def test_without_control_groups_there_is_no_quota(tmp_path):
    assert cpu_quota(tmp_path / "missing", tmp_path) is None
