"""What a heat map costs: read off the forward pass, as here, beside grad-cam's GradCAM, in turn."""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch

from benchmarks.machine import host
from benchmarks.servers import BenchmarkError
from cxr.model.cam import class_maps, logits_of
from cxr.model.network import build, features, use_exact_float32
from cxr_training.data.progress import progress_bar

_SIZE: Final = 224


def benchmark_cam(arch: str, device: torch.device, rounds: int) -> dict[str, Any]:
    """Medians of `rounds`, each a plain classification, one with our map and one with GradCAM, of one film in float32.

    Both run the same network by torch. What our map adds is far below what a pass varies by, and is therefore timed
    alone as well, on the feature map of the round.

    Returns
    -------
    Times in ms; ``gradcam_over_ours``, ``gradcam_over_classification`` and ``map_share``, the map alone over a
    classification, each as the median of the rounds' ratios.

    Raises
    ------
    BenchmarkError
        grad-cam is not installed.
    """
    try:
        grad_cam = importlib.import_module("pytorch_grad_cam")
        targets = importlib.import_module("pytorch_grad_cam.utils.model_targets")
    except ImportError as error:
        raise BenchmarkError(f"grad-cam is not installed ({error}): pip install grad-cam") from error
    use_exact_float32()
    network = build(arch, 2).to(device)
    film = torch.rand(1, 3, _SIZE, _SIZE, device=device)
    target = [targets.ClassifierOutputTarget(1)]
    with grad_cam.GradCAM(model=network, target_layers=[network.layer4[-1]]) as explain:
        ways: dict[str, Callable[[], Any]] = {
            "classification": lambda: _classify(network, film),
            "with_our_map": lambda: _with_map(network, film),
            "with_gradcam": lambda: explain(input_tensor=film, targets=target),
        }
        for way in ways.values():
            way()  # warm
        with torch.inference_mode():
            feature_map = features(network, film)
        ways["our_map_alone"] = lambda: _map_of(network, feature_map)
        rows = [
            {name: _ms(way, device) for name, way in ways.items()}
            for _ in progress_bar(range(rounds), "timing", "round")
        ]
        theirs = np.asarray(ways["with_gradcam"]())[0]
    ours = _with_map(network, film)[0, 1].cpu().numpy()
    return {
        "what": "cam",
        "machine": host(),
        "arch": arch,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "ms": {name: round(statistics.median(row[name] for row in rows), 3) for name in rows[0]},
        "gradcam_over_classification": _ratio(rows, "with_gradcam", "classification"),
        "gradcam_over_ours": _ratio(rows, "with_gradcam", "with_our_map"),
        "map_share": _ratio(rows, "our_map_alone", "classification"),
        "shapes": {"ours": list(ours.shape), "gradcam": list(theirs.shape)},
    }


def _classify(network: Any, film: torch.Tensor) -> Any:
    with torch.inference_mode():
        return network(film).cpu()


def _with_map(network: Any, film: torch.Tensor) -> Any:
    with torch.inference_mode():
        return _map_of(network, features(network, film))


def _map_of(network: Any, feature_map: torch.Tensor) -> Any:
    with torch.inference_mode():
        maps = class_maps(feature_map, network.fc.weight)
        logits_of(maps, network.fc.bias).cpu()
        return maps.cpu()


def _ms(way: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    way()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) * 1000


def _ratio(rows: list[dict[str, float]], above: str, below: str) -> float:
    return round(statistics.median(row[above] / row[below] for row in rows), 6)
