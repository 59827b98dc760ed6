"""The network alone by each engine that runs here, and what the heat map costs beside it."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.films import grey_films
from cxr.engines.load import Engine, load_engine
from cxr.errors import ModelError
from cxr.model.cam import class_maps, logits_of
from cxr.model.network import build, pool
from cxr.model.parity import ENGINES, REFERENCE
from cxr.model.spec import Preprocessing
from cxr.predict import Predictor
from cxr_training.data.progress import progress_bar
from cxr_training.measure.parity import processor_name


def benchmark_raw(arch: str, device: torch.device, batch: int, repeats: int, run: Path | None = None) -> dict[str, Any]:
    """Medians over `repeats` rounds, each of a pass by every engine, the heat maps and, for comparison, the plain head.

    Parameters
    ----------
    batch
        Films in a pass.
    run
        An exported run whose network is timed, its engine in int8 too where it has one; a network of `arch` with random
        weights by default.

    Returns
    -------
    Times in milliseconds for a batch. ``speedup`` of an engine is the median of the rounds' ratios to the reference,
    ``cam_share`` that of maps and logits over the reference's pass to layer4.
    """
    if run is None:
        network, preprocessing = build(arch, 2).to(device), Preprocessing()
    else:
        model = Predictor.load(run, str(device))
        network, preprocessing, arch = model.network, model.spec.preprocessing, model.spec.arch
    engines, missing = _engines(network, preprocessing, device, run)
    side = preprocessing.size
    films = torch.from_numpy(grey_films(batch, side))
    head = network.fc
    steps: dict[str, Callable[[], object]] = {name: partial(_pass, one, films) for name, one in engines.items()}
    with torch.inference_mode():
        for step in steps.values():
            step()  # warm
        feature_map = torch.cat(_pass(engines[REFERENCE], films))
        steps["cam"] = lambda: logits_of(class_maps(feature_map, head.weight), head.bias).cpu()
        steps["head"] = lambda: head(pool(feature_map)).cpu()
        rounds = [
            {name: _milliseconds(step, device) for name, step in steps.items()}
            for _ in progress_bar(range(repeats), "timing", "round")
        ]
    times = {name: np.array([one[name] for one in rounds]) for name in steps}
    forward = float(np.median(times[REFERENCE]))
    return {
        "machine": machine(device),
        "arch": arch,
        "batch": batch,
        "repeats": repeats,
        "forward_ms": round(forward, 3),
        "images_per_s": round(batch / forward * 1000, 2),
        "engines": {name: _figures(times[name], times[REFERENCE], batch) for name in engines},
        "not_timed": missing,
        "cam_ms": round(float(np.median(times["cam"])), 3),
        "head_ms": round(float(np.median(times["head"])), 3),
        "cam_share": round(float(np.median(times["cam"] / times[REFERENCE])), 6),
    }


def _engines(
    network: Any, preprocessing: Preprocessing, device: torch.device, run: Path | None
) -> tuple[dict[str, Engine], dict[str, str]]:
    """The engines for a device, and why others of it are not timed."""
    engines: dict[str, Engine] = {}
    missing: dict[str, str] = {}
    for name, kind in ENGINES.items():
        if device.type not in kind.devices:
            continue
        try:
            engines[name] = load_engine(name, network, preprocessing, device, run)
        except ModelError as error:
            missing[name] = str(error)
    return engines, missing


def _pass(engine: Engine, films: torch.Tensor) -> list[torch.Tensor]:
    """The feature maps of all films, as many at once as the engine takes, as `Predictor` does it."""
    most = engine.max_batch
    return [engine.features(films[start : start + most]) for start in range(0, len(films), most)]


def _figures(times: Any, reference: Any, batch: int) -> dict[str, float]:
    forward = float(np.median(times))
    return {
        "forward_ms": round(forward, 3),
        "images_per_s": round(batch / forward * 1000, 2),
        "speedup": round(float(np.median(reference / times)), 3),
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
    return {
        "processor": processor_name(device),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


def table_of(result: Mapping[str, Any]) -> str:
    """The result as text."""
    lines = [
        f"{result['arch']}, batch {result['batch']}, {result['machine']['threads']} threads, median of "
        f"{result['repeats']} rounds",
        f"  {'engine':20s} {'ms':>10s} {'images/s':>10s} {'speedup':>8s}",
    ]
    lines += [
        f"  {name:20s} {one['forward_ms']:10.3f} {one['images_per_s']:10.2f} {one['speedup']:8.2f}"
        for name, one in result["engines"].items()
    ]
    lines += [f"  {name:20s} not timed: {why}" for name, why in result["not_timed"].items()]
    lines += [
        f"  {'maps and logits':20s} {result['cam_ms']:10.3f}",
        f"  {'plain head':20s} {result['head_ms']:10.3f}",
        f"  heat maps / reference's pass {result['cam_share']:.4%}",
    ]
    return "\n".join(lines)
