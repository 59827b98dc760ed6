"""What figures were measured on."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def processor_name(device: torch.device) -> str:
    """The maker's name of the processor or GPU that computes."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = _cpuinfo().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")  # Linux alone has it
    return path.read_text(encoding="utf-8") if path.is_file() else ""
