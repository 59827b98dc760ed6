"""The network alone, and what the heat map costs beside it."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from cxr.cam import class_maps, logits_of
from cxr.model import build, features, pool, use_exact_float32


def benchmark_raw(arch: str, device: torch.device, batch: int, repeats: int) -> dict[str, Any]:
    """Medians over `repeats` rounds, each of a forward pass, its heat maps and, for comparison, the plain head.

    Parameters
    ----------
    batch
        Films in a pass.

    Returns
    -------
    Times in milliseconds for a batch, and ``cam_share``: maps and logits over the pass to layer4, as the median of the
    rounds' ratios.
    """
    use_exact_float32()
    network = build(arch, 2).to(device)
    films = torch.rand(batch, 3, 224, 224, device=device)
    rounds: list[tuple[float, float, float]] = []
    with torch.inference_mode():
        feature_map = features(network, films)  # warm
        for _ in tqdm(range(repeats), unit="round", leave=False):
            forward = _milliseconds(lambda: features(network, films), device)
            cam = _milliseconds(
                lambda: logits_of(class_maps(feature_map, network.fc.weight), network.fc.bias).cpu(), device
            )
            head = _milliseconds(lambda: network.fc(pool(feature_map)).cpu(), device)
            rounds.append((forward, cam, head))
    times = np.array(rounds)
    forward_ms, cam_ms, head_ms = np.median(times, axis=0)
    return {
        "machine": machine(device),
        "arch": arch,
        "batch": batch,
        "repeats": repeats,
        "forward_ms": round(float(forward_ms), 3),
        "images_per_s": round(batch / float(forward_ms) * 1000, 2),
        "cam_ms": round(float(cam_ms), 3),
        "head_ms": round(float(head_ms), 3),
        "cam_share": round(float(np.median(times[:, 1] / times[:, 0])), 6),
    }


def _milliseconds(step: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    step()
    _wait(device)
    return (time.perf_counter() - start) * 1000


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def machine(device: torch.device) -> dict[str, str | int]:
    """What figures were measured on."""
    return {"processor": _processor(device), "threads": torch.get_num_threads(), "torch": str(torch.__version__)}


def _processor(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()


def table_of(result: dict[str, Any]) -> str:
    """The result as text."""
    rows = [
        ("forward to layer4", result["forward_ms"]),
        ("class maps and logits", result["cam_ms"]),
        ("pooling and plain head", result["head_ms"]),
    ]
    lines = [f"{result['arch']}, batch {result['batch']}, median of {result['repeats']} rounds, ms"]
    lines += [f"  {name:24s} {value:10.3f}" for name, value in rows]
    lines += [f"  heat maps / forward      {result['cam_share']:10.4%}", f"  images/s {result['images_per_s']:26.2f}"]
    return "\n".join(lines)
