"""What this process may use of the machine: cores, memory, graphics cards."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_CGROUPS: Final = Path("/sys/fs/cgroup")
_NO_LIMIT: Final = 1 << 60  # cgroup v1 writes "no limit" as a number beyond any memory


@dataclass(frozen=True)
class Machine:
    """What may be used.

    Attributes
    ----------
    cores : int
        Processors this process may run on at the same time, at least 1.
    memory_bytes : int or None
        Memory that is not in use; None where the system does not tell.
    gpus : int
        Graphics cards that torch can compute on.
    """

    cores: int
    memory_bytes: int | None
    gpus: int = 0


def machine(gpus: int = 0) -> Machine:
    """Give what this process may use, with as many graphics cards as were found before."""
    return Machine(cores(), free_memory(), gpus)


def cores(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int:
    """Give the processors this process may use at once: its affinity, and no more than its control groups' share.

    Parameters
    ----------
    proc, cgroups
        Where the kernel's files are.

    References
    ----------
    Linux, Documentation/admin-guide/cgroup-v2.rst, ``cpu.max``; Documentation/scheduler/sched-bwc.rst for version 1.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shares = [float(count)]
    for folder in _own_groups("", proc, cgroups):
        quota, _, period = _text(folder / "cpu.max").partition(" ")
        shares += _share(quota, period)
    for folder in _own_groups("cpu", proc, cgroups):
        shares += _share(_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us"))
    return max(1, int(min(shares)))


def free_memory(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int | None:
    """Give the bytes of memory that may still be taken, or None where the system does not tell."""
    found = []
    for line in _text(proc / "meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024)
    files = (("", "memory.max", "memory.current"), ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes"))
    for controller, limit_file, usage_file in files:
        for folder in _own_groups(controller, proc, cgroups):
            limit, usage = _text(folder / limit_file), _text(folder / usage_file)
            if limit.isdigit() and usage.isdigit() and int(limit) < _NO_LIMIT:
                # File cache counts as used there, and is given up when the memory is needed.
                found.append(int(limit) - int(usage) + _file_cache(folder))
    return max(0, min(found)) if found else None


def count_gpus(environment: Mapping[str, str]) -> int:
    """Give the number of graphics cards that TorchServe would find and a worker could compute on.

    TorchServe 0.12.0 believes ``nvidia-smi``; torch is asked as well, in another process since its import takes
    seconds: a build of it for the CPU, or a driver too old for it, finds none.
    """
    driver = shutil.which("nvidia-smi")
    if driver is None or environment.get("CUDA_VISIBLE_DEVICES") == "":
        return 0
    listed = subprocess.run([driver, "-L"], env=dict(environment), capture_output=True, text=True, check=False)
    if listed.returncode != 0 or not listed.stdout.strip():
        return 0
    question = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"
    said = subprocess.run(
        [sys.executable, "-c", question], env=dict(environment), capture_output=True, text=True, check=False
    )
    last = said.stdout.split()[-1:] or ["0"]
    return int(last[0]) if last[0].isdigit() else 0


def _own_groups(controller: str, proc: Path, cgroups: Path) -> Iterator[Path]:
    """This process's control group and those around it; version 2 has one tree, version 1 one for each controller."""
    for line in _text(proc / "self" / "cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller not in controllers.split(","):
            continue
        root = cgroups / controller
        # In a container the path may be one of the host's that does not exist here; the root always does.
        inner = root / path.lstrip("/")
        yield from (folder for folder in (inner, *inner.parents) if folder.is_relative_to(root))


def _share(quota: str, period: str) -> list[float]:
    """Processors for a quota of microseconds in a period; none for "max" or -1, which set no limit."""
    return [int(quota) / int(period)] if quota.isdigit() and period.isdigit() and int(period) > 0 else []


def _file_cache(folder: Path) -> int:
    for line in _text(folder / "memory.stat").splitlines():
        if line.startswith("inactive_file "):
            return int(line.split()[1])
    return 0


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):  # not this kind of system, or a group that is not shown here
        return ""
