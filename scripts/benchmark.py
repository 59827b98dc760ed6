"""Measure how fast this machine is, in ratios of things timed in turn within one run.

``raw``: the network alone, and what the heat map costs beside it.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from cxr.cam import class_maps, logits_of
from cxr.errors import CxrError
from cxr.model import ARCHITECTURES, build, features, pool, use_exact_float32
from cxr.predict import resolve_device
from scripts.arguments import positive


def raw(arch: str, device: torch.device, batch: int, repeats: int) -> dict[str, Any]:
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
        "machine": {"processor": _processor(device), "threads": torch.get_num_threads(), "torch": torch.__version__},
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


def _processor(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()


def _table(result: dict[str, Any]) -> str:
    rows = [
        ("forward to layer4", result["forward_ms"]),
        ("class maps and logits", result["cam_ms"]),
        ("pooling and plain head", result["head_ms"]),
    ]
    lines = [f"{result['arch']}, batch {result['batch']}, median of {result['repeats']} rounds, ms"]
    lines += [f"  {name:24s} {value:10.3f}" for name, value in rows]
    lines += [f"  heat maps / forward      {result['cam_share']:10.4%}", f"  images/s {result['images_per_s']:26.2f}"]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts.benchmark", description=__doc__)
    what = parser.add_subparsers(dest="what", required=True)
    command = what.add_parser("raw", help="the network alone, and what the heat map costs")
    command.add_argument("--arch", choices=list(ARCHITECTURES), default="resnet152")
    command.add_argument("--device", default="auto", help="auto, cpu or cuda")
    command.add_argument("--batch", type=positive, default=8, help="films in a pass (default %(default)s)")
    command.add_argument("--repeats", type=positive, default=15, help="rounds (default %(default)s)")
    command.add_argument("--json", action="store_true", help="JSON instead of a table")
    arguments = parser.parse_args(argv)
    try:
        device = resolve_device(arguments.device)
    except CxrError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    result = raw(arguments.arch, device, arguments.batch, arguments.repeats)
    print(json.dumps(result) if arguments.json else _table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
